package meshgrpc_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/internal/h2raw"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc/codes"
)

// TestMethodSpellings calls a method by all names that some server might take for it. The method runs when the rule allows exactly
// its name, and never by another one. Sources: CVE-2026-33186 (grpc-go routed a path without its leading slash, which no
// rule matched); "gRPC over HTTP2", section Requests; gRFC A41 (url_path).
func TestMethodSpellings(t *testing.T) {
	net := meshtest.New(t)
	payments := net.Join(t, "payments")
	serve(t, payments, &greeter{})
	svid, err := net.Identity(t, "orders").GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	addr := payments.Discovery().Lookup("payments").Endpoints[0].Addr.String()

	call := func(path, host string) (status codes.Code, greeted bool) {
		t.Helper()
		raw, err := net.Network().DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c := tls.Client(raw, &tls.Config{
			MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{testca.Certificate(svid)},
		})
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		h2, err := h2raw.New(c)
		if err != nil {
			t.Fatal(err)
		}
		r, err := h2.Do([]byte{0, 0, 0, 0, 0}, // an empty message
			h2raw.Field{Name: ":method", Value: http.MethodPost}, h2raw.Field{Name: ":scheme", Value: "https"},
			h2raw.Field{Name: ":path", Value: path}, h2raw.Field{Name: ":authority", Value: host},
			h2raw.Field{Name: "content-type", Value: "application/grpc"}, h2raw.Field{Name: "te", Value: "trailers"})
		if err != nil {
			return codes.Unavailable, false // the server would not hear more of it
		}
		if r.Refused {
			return codes.Internal, false
		}
		status = codes.Unknown
		_, _ = fmt.Sscan(r.Header["grpc-status"], &status)
		return status, strings.Contains(string(r.Body), "spiffe://")
	}

	const method = service + "/UnaryCall"
	spellings := []string{
		method, "//" + method, "/" + service + "//UnaryCall", "/" + method + "/", "/" + method + "?", "/" + method + "?x=1", "/" + method + "#",
		"/" + method + ";x", "/%67" + method[1:], "/" + service + "%2fUnaryCall", "/" + service + `\UnaryCall`, "/./" + method, "/x/../" + method,
		"/" + method + "/.", "/" + strings.ToUpper(method), "/" + strings.ToLower(method), "/" + service + "/unarycall", "/" + method + "%00",
		"/" + method + " ", " /" + method, "http://payments/" + method, "/" + service + "/", "/" + service, "/", "*", "",
	}
	for _, pattern := range []string{method, service + "/*", "*/UnaryCall", "*"} {
		quoted, err := json.Marshal(pattern)
		if err != nil {
			t.Fatal(err)
		}
		deny := `{"apiVersion":"mesh/v1","kind":"Authorization","metadata":{"name":"deny"},
			"spec":{"service":"payments","action":"deny","rules":[{"to":[{"grpc":[` + string(quoted) + `]}]}]}}`
		for action, rules := range map[string][]string{
			"allow": {allowMethods(t, pattern)}, "deny": {deny, meshtest.Allow("payments", "orders")},
		} {
			net.SetRules(t, rules...)
			want := map[string]codes.Code{"allow": codes.OK, "deny": codes.PermissionDenied}[action]
			if got, greeted := call("/"+method, "payments"); got != want || greeted != (want == codes.OK) {
				t.Errorf("%s %s: the method by its name: %v, greeted: %v", action, pattern, got, greeted)
			}
			for _, s := range spellings {
				if got, greeted := call(s, "payments"); greeted || got == codes.OK {
					t.Errorf("%s %s: %q is %v, and the method ran: %v", action, pattern, s, got, greeted)
				}
			}
		}
	}
}
