package mesh_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/internal/h2raw"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/meshtest"
)

// site is a payments whose handler tells what it got, and orders as a client that puts bytes on the wire as they are.
type site struct {
	t     *testing.T
	net   *meshtest.Net
	addr  string
	certs []tls.Certificate
	h1    *bufio.ReadWriter // nil: dial
	h1c   io.Closer
	h2    *h2raw.Conn
	cases int
}

// seen is what the handler got.
type seen struct {
	Method, Path, Host, URLHost string
	Header                      http.Header
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, net: meshtest.New(t)}
	m := s.net.Join(t, "payments")
	ln, err := m.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(seen{r.Method, r.URL.Path, r.Host, r.URL.Host, r.Header})
	}))
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	serveUntilEnd(t, srv, ln)
	svid, err := s.net.Identity(t, "orders").GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	s.certs = []tls.Certificate{testca.Certificate(svid)}
	return s
}

// rules puts one rule in force, as an allow, or as a deny beside an allow for all.
func (s *site) rules(action, rule string) {
	s.t.Helper()
	document := func(name, action, rule string) string {
		return fmt.Sprintf(`{"apiVersion":"mesh/v1","kind":"Authorization","metadata":{"name":%q},"spec":{"service":"payments","action":%q,"rules":[%s]}}`, name, action, rule)
	}
	docs := []string{document("case", action, rule)}
	if action == "deny" {
		docs = append(docs, document("all", "allow", "{}"))
	}
	s.net.SetRules(s.t, docs...)
}

func (s *site) dial(alpn string) *tls.Conn {
	s.t.Helper()
	raw, err := s.net.Network().DialContext(s.t.Context(), "tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{alpn}, Certificates: s.certs,
	})
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	s.t.Cleanup(func() { c.Close() })
	return c
}

// send makes a request in HTTP/1.1 whose head, without the empty line, is given. It returns the status and what the handler got, if it
// was reached.
func (s *site) send(head string) (int, *seen) {
	s.t.Helper()
	if s.h1 == nil {
		c := s.dial("http/1.1")
		s.h1, s.h1c = bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c)), c
	}
	_, _ = s.h1.WriteString(head + "\r\n\r\n")
	if err := s.h1.Flush(); err != nil {
		s.t.Fatalf("%q: %v", head, err)
	}
	resp, err := http.ReadResponse(s.h1.Reader, nil)
	if err != nil {
		s.t.Fatalf("%q: %v", head, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%q: %v", head, err)
	}
	if resp.Close {
		s.h1 = nil
		_ = s.h1c.Close()
	}
	return resp.StatusCode, s.got(resp.StatusCode, body)
}

// sendH2 is send in HTTP/2. A stream that is reset counts as 400.
func (s *site) sendH2(fields ...h2raw.Field) (int, *seen) {
	s.t.Helper()
	if s.h2 == nil {
		c, err := h2raw.New(s.dial("h2"))
		if err != nil {
			s.t.Fatal(err)
		}
		s.h2 = c
	}
	r, err := s.h2.Do(nil, fields...)
	if err != nil {
		s.t.Fatalf("%q: %v", fields, err)
	}
	if r.Refused {
		return http.StatusBadRequest, nil
	}
	var status int
	if _, err := fmt.Sscan(r.Header[":status"], &status); err != nil {
		s.t.Fatalf("%q: %v", fields, err)
	}
	return status, s.got(status, r.Body)
}

func (s *site) got(status int, body []byte) *seen {
	if status != http.StatusOK || len(body) == 0 { // to HEAD there is no body
		return nil
	}
	var v seen
	if err := json.Unmarshal(body, &v); err != nil {
		s.t.Fatalf("%q: %v", body, err)
	}
	return &v
}

// pseudo are the fields that every HTTP/2 request has.
func pseudo(method, path, authority string, more ...h2raw.Field) []h2raw.Field {
	return append([]h2raw.Field{{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"},
		{Name: ":authority", Value: authority}, {Name: ":path", Value: path}}, more...)
}

// want is the status of a request that has one reading, of which the rule says whether it matches.
func want(action string, matches bool) int {
	if matches == (action == "allow") {
		return http.StatusOK
	}
	return http.StatusForbidden
}

// TestPathSpellings sends every spelling to each kind of pattern, in an allow and in a deny, in both versions of HTTP. The
// answer is 400, or it is the decision for the one path that the spelling means, and the handler gets that path.
func TestPathSpellings(t *testing.T) {
	s := newSite(t)
	for _, pattern := range []struct {
		text    string
		matches func(path string) bool
	}{
		{"/admin", func(p string) bool { return p == "/admin" }},
		{"/admin*", func(p string) bool { return strings.HasPrefix(p, "/admin") }},
		{"*admin", func(p string) bool { return strings.HasSuffix(p, "admin") }},
		{"/{area}", func(p string) bool { return len(p) > 1 && strings.Count(p, "/") == 1 }},
		{"/admin/{rest...}", func(p string) bool { return strings.HasPrefix(p, "/admin/") }},
	} {
		for _, action := range []string{"allow", "deny"} {
			s.rules(action, `{"to":[{"paths":["`+pattern.text+`"]}]}`)
			check := func(proto string, sp spelling, status int, v *seen) {
				s.cases++
				expected := http.StatusBadRequest
				if sp.path != "" {
					expected = want(action, pattern.matches(sp.path))
				}
				if status != expected || v != nil && v.Path != sp.path {
					t.Errorf("%s %q by %s %s: %d with path %+v, want %d and %q", proto, sp.target, action, pattern.text, status, v, expected, sp.path)
				}
			}
			for _, sp := range spellings {
				status, v := s.send("GET " + sp.target + " HTTP/1.1\r\nHost: payments")
				check("HTTP/1.1", sp, status, v)
				status, v = s.sendH2(pseudo("GET", sp.target, "payments")...)
				check("HTTP/2", sp, status, v)
			}
			for _, sp := range absolute {
				status, v := s.send("GET " + sp.target + " HTTP/1.1\r\nHost: payments")
				check("HTTP/1.1", sp, status, v)
				status, v = s.sendH2(pseudo("GET", sp.target, "payments")...) // not a :path (RFC 9113, section 8.3.1)
				check("HTTP/2", spelling{sp.target, ""}, status, v)
			}
		}
	}
	t.Logf("%d cases of %d spellings", s.cases, len(spellings)+len(absolute))
	if s.cases < 1000 || len(spellings) < 100 {
		t.Error("there were more cases once")
	}
}

// TestHostSpellings is the same for hosts. Sources: CVE-2021-39155 (case), Istio's Security Best Practices, "Writing host match
// policies" (ports), RFC 3986 sections 3.2.2 and 3.2.3, RFC 9112 section 3.2.
func TestHostSpellings(t *testing.T) {
	s := newSite(t)
	hosts := []struct{ sent, host string }{ // host "": 400
		{"shop.example", "shop.example"},
		{"SHOP.Example", "shop.example"},
		{"shop.example.", "shop.example"},
		{"Shop.Example.:8443", "shop.example"},
		{"shop.example:80", "shop.example"},
		{"shop.example:", "shop.example"},
		{"shop_1.example", "shop_1.example"},
		{"a.shop.example", "a.shop.example"},
		{"shop.example.evil", "shop.example.evil"},
		{"xshop.example", "xshop.example"},
		{"xn--shp-fna.example", "xn--shp-fna.example"},
		{"10.0.0.1:80", "10.0.0.1"},
		{"[::1]", "::1"},
		{"[::1]:443", "::1"},
		{"[0:0:0:0:0:0:0:1]", "::1"},
		{"[2001:DB8::A]", "2001:db8::a"},
		{"shop.example..", ""},
		{".shop.example", ""},
		{"shop..example", ""},
		{".", ""},
		{"shop.example:80:80", ""},
		{"shop.example:http", ""},
		{"shop.example:-1", ""},
		{":80", ""},
		{"::1", ""},
		{"[::1", ""},
		{"::1]", ""},
		{"[::1]x", ""},
		{"[::1%25eth0]", ""},
		{"[shop.example]", ""},
		{"[10.0.0.1]", ""},
		{"user@shop.example", ""},
		{"shop.example/admin", ""},
		{"shop.example?x", ""},
		{"shop.example#x", ""},
		{`shop.example\x`, ""},
		{"shop.example,evil.example", ""},
		{"shop.example evil.example", ""},
		{"shop%2eexample", ""},
		{"shop.example%00", ""},
		{"shop.exampl\u00e9", ""},
		{"*.example", ""},
	}
	for _, pattern := range []struct {
		text    string
		matches func(host string) bool
	}{
		{"shop.example", func(h string) bool { return h == "shop.example" }},
		{"shop.*", func(h string) bool { return strings.HasPrefix(h, "shop.") }},
		{"*.example", func(h string) bool { return strings.HasSuffix(h, ".example") }},
		{"[::1]", func(h string) bool { return h == "::1" }},
		{"0:0::1", func(h string) bool { return h == "::1" }},
	} {
		for _, action := range []string{"allow", "deny"} {
			s.rules(action, `{"to":[{"hosts":["`+pattern.text+`"]}]}`)
			check := func(proto, sent, host string, status int, v *seen) {
				s.cases++
				expected := http.StatusBadRequest
				if host != "" {
					expected = want(action, pattern.matches(host))
				}
				if status != expected || v != nil && v.Host != host {
					t.Errorf("%s %q by %s %s: %d with host %+v, want %d and %q", proto, sent, action, pattern.text, status, v, expected, host)
				}
			}
			for _, h := range hosts {
				status, v := s.send("GET / HTTP/1.1\r\nHost: " + h.sent)
				check("HTTP/1.1", h.sent, h.host, status, v)
				status, v = s.sendH2(pseudo("GET", "/", h.sent)...)
				check("HTTP/2", h.sent, h.host, status, v)
			}
			for _, h := range hosts[:6] { // the target's host is the request's, whatever the header says
				status, v := s.send("GET http://" + h.sent + "/ HTTP/1.1\r\nHost: other.example")
				check("HTTP/1.1, absolute", h.sent, h.host, status, v)
				if v != nil && v.URLHost != h.host {
					t.Errorf("the handler was also told of the host %q", v.URLHost)
				}
			}
		}
	}
	for _, head := range []string{"Host: a\r\nHost: b", "X: y", "Host : a"} {
		s.cases++
		if status, _ := s.send("GET / HTTP/1.1\r\n" + head); status != http.StatusBadRequest {
			t.Errorf("%q: %d", head, status)
		}
	}
	t.Logf("%d cases", s.cases)
}
