package mesh_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/intramesh/mesh/internal/h2raw"
)

// TestMethodSpellings: a method is compared as sent, and a standard one that is not in upper case is 400. Sources: Istio, Authorization
// Policy Normalization, "Method not in upper case"; RFC 9110, section 9.1 (methods are case-sensitive).
func TestMethodSpellings(t *testing.T) {
	s := newSite(t)
	methods := []struct {
		sent string
		ok   bool
	}{
		{"GET", true}, {"HEAD", true}, {"POST", true}, {"PUT", true}, {"PATCH", true}, {"DELETE", true}, {"OPTIONS", true}, {"TRACE", true},
		{"GETS", true}, {"GE", true}, {"BREW", true}, {"brew", true}, {"M-SEARCH", true}, {"PROPFIND", true}, {"GET.", true},
		{"get", false}, {"Get", false}, {"gET", false}, {"head", false}, {"post", false}, {"Put", false}, {"patch", false}, {"Delete", false},
		{"options", false}, {"trace", false}, {"connect", false}, {"", false},
	}
	for _, pattern := range []struct {
		text    string
		matches func(method string) bool
	}{
		{"GET", func(m string) bool { return m == "GET" }},
		{"GET*", func(m string) bool { return strings.HasPrefix(m, "GET") }},
		{"*ET", func(m string) bool { return strings.HasSuffix(m, "ET") }},
		{"*", func(string) bool { return true }},
	} {
		for _, action := range []string{"allow", "deny"} {
			s.rules(action, `{"to":[{"methods":["`+pattern.text+`"]}]}`)
			for _, m := range methods {
				expected := http.StatusBadRequest
				if m.ok {
					expected = want(action, pattern.matches(m.sent))
				}
				if m.sent != "HEAD" { // a client that does not know the method would wait for the body
					if status, v := s.send(m.sent + " / HTTP/1.1\r\nHost: payments"); status != expected || v != nil && v.Method != m.sent {
						t.Errorf("HTTP/1.1 %q by %s %s: %d, want %d", m.sent, action, pattern.text, status, expected)
					}
				}
				if status, v := s.sendH2(pseudo(m.sent, "/", "payments")...); status != expected || v != nil && v.Method != m.sent {
					t.Errorf("HTTP/2 %q by %s %s: %d, want %d", m.sent, action, pattern.text, status, expected)
				}
			}
		}
	}
}

// TestHeaderLines: an allow wants every line to match, a deny any. Sources: CVE-2020-25017 (Envoy saw the first line only); Istio,
// Authorization Policy Normalization, "Duplicate headers" and "White space in header name"; RFC 9112, sections 5.1 and 5.2.
func TestHeaderLines(t *testing.T) {
	s := newSite(t)
	lines := []struct {
		lines []string
		// as which actions the rule for "admin" matches, and the one for all but "admin"
		is, isNot string
	}{
		{nil, "none", "both"},
		{[]string{"x-role: admin"}, "both", "none"},
		{[]string{"X-ROLE: admin"}, "both", "none"},
		{[]string{"x-role:admin"}, "both", "none"},
		{[]string{"x-role: \t admin \t"}, "both", "none"},
		{[]string{"x-role: admin", "x-role: admin"}, "both", "none"},
		{[]string{"x-role: admin", "x-role: user"}, "deny", "deny"},
		{[]string{"x-role: user", "x-role: admin"}, "deny", "deny"},
		{[]string{"x-role: user", "X-Role: guest", "X-ROLE: admin"}, "deny", "deny"},
		{[]string{"x-role:", "x-role: admin"}, "deny", "deny"},
		{[]string{"x-role: user", "x-role: guest"}, "none", "both"},
		{[]string{"x-role: user"}, "none", "both"},
		{[]string{"x-role: Admin"}, "none", "both"},
		{[]string{"x-role: admins"}, "none", "both"},
		{[]string{`x-role: "admin"`}, "none", "both"},
		{[]string{"x-role:"}, "none", "both"},
		{[]string{"x_role: admin"}, "none", "both"},
		{[]string{"x-roles: admin"}, "none", "both"},
		{[]string{"x-role : admin"}, "400", "400"},
		{[]string{" x-role: admin"}, "400", "400"},
		{[]string{"x-role: a\x00dmin"}, "400", "400"},
		{[]string{"x-role\x00: admin"}, "400", "400"},
	}
	for i, condition := range []string{`"values":["admin"]`, `"notValues":["admin"]`} {
		for _, action := range []string{"allow", "deny"} {
			s.rules(action, `{"when":[{"key":"request.header.X-Role",`+condition+`}]}`)
			for _, l := range lines {
				as := []string{l.is, l.isNot}[i]
				expected := want(action, as == "both" || as == action)
				if as == "400" {
					expected = http.StatusBadRequest
				}
				head := "GET / HTTP/1.1\r\nHost: payments"
				fields := pseudo("GET", "/", "payments")
				for _, line := range l.lines {
					head += "\r\n" + line
					name, value, _ := strings.Cut(line, ":")
					fields = append(fields, h2raw.Field{Name: strings.ToLower(name), Value: strings.Trim(value, " \t")})
				}
				if status, _ := s.send(head); status != expected {
					t.Errorf("HTTP/1.1 %q by %s %s: %d, want %d", l.lines, action, condition, status, expected)
				}
				if status, _ := s.sendH2(fields...); status != expected {
					t.Errorf("HTTP/2 %q by %s %s: %d, want %d", l.lines, action, condition, status, expected)
				}
			}
		}
	}
}

// TestClaimsOfIdentity: no header tells the handler who calls, or for which host. Sources: authorization.md, "One canonical
// request"; Envoy, x-forwarded-client-cert; RFC 9440, section 3; RFC 9113, section 8.3.1 (:authority and Host).
func TestClaimsOfIdentity(t *testing.T) {
	s := newSite(t)
	s.rules("allow", `{"to":[{"hosts":["payments"]}]}`)
	names := []string{
		"x-forwarded-client-cert", "X-FORWARDED-CLIENT-CERT", "x-spiffe-id", "client-cert", "client-cert-chain", "x-client-cert",
		"x-client-dn", "x-ssl-client-cert", "x-ssl-client-s-dn", "x-ssl-client-verify", "ssl-client-cert", "forwarded-client-cert",
	}
	head, fields := "GET / HTTP/1.1\r\nHost: payments\r\nX-Kept: yes", pseudo("GET", "/", "payments", h2raw.Field{Name: "x-kept", Value: "yes"})
	for _, name := range names {
		head += "\r\n" + name + ": URI=spiffe://test.mesh/admin"
		fields = append(fields, h2raw.Field{Name: strings.ToLower(name), Value: "URI=spiffe://test.mesh/admin"})
	}
	_, h1 := s.send(head)
	_, h2 := s.sendH2(append(fields, h2raw.Field{Name: "host", Value: "admin"})...)
	for proto, v := range map[string]*seen{"HTTP/1.1": h1, "HTTP/2": h2} {
		if v == nil {
			t.Errorf("%s: refused", proto)
			continue
		}
		if keys := slices.Collect(maps.Keys(v.Header)); len(keys) != 1 || keys[0] != "X-Kept" || v.Host != "payments" {
			t.Errorf("%s: the handler got host %s and %v", proto, v.Host, v.Header)
		}
	}
	if status, v := s.sendH2(append(pseudo("GET", "/", "admin"), h2raw.Field{Name: "host", Value: "payments"})...); status != http.StatusForbidden {
		t.Errorf("the host header was believed: %d, %+v", status, v)
	}
}
