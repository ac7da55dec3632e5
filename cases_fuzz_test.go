package mesh_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"github.com/intramesh/mesh/policy"
)

// witness allows everything, and remembers the last HTTP request that it was asked about.
type witness struct {
	mu   sync.Mutex
	last policy.Request
}

func (w *witness) Authorize(_ context.Context, r *policy.Request) policy.Decision {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Layer == policy.LayerHTTP {
		w.last = *r
	}
	return policy.Decision{Verdict: policy.Allow, Rule: -1, Layer: r.Layer}
}

// FuzzHandler: whatever target, host, method and header come in, the answer is 400, or the handler gets exactly what was judged, and
// that has one reading.
func FuzzHandler(f *testing.F) {
	for _, s := range slices.Concat(spellings, absolute) {
		f.Add("GET", s.target, "payments", "x-role", "admin")
	}
	f.Add("get", "/", "PAYMENTS.:80", "X-Forwarded-Client-Cert", "a")
	f.Add("OPTIONS", "*", "[::1]:80", "Host", "b")

	net, seenBy := meshtest.New(f), new(witness)
	payments := net.JoinConfig(f, mesh.Config{Service: "payments", Policy: seenBy, Logger: slog.New(slog.DiscardHandler)})
	var got *http.Request
	connection := make(chan context.Context, 1)
	h := payments.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		select {
		case connection <- r.Context():
		default:
		}
	}))
	ln, err := payments.Listen(f.Context(), "tcp", ":0")
	if err != nil {
		f.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }()
	f.Cleanup(func() { srv.Close() })
	// A real connection, by whose address the handler knows that a request came in by the mesh. It stays open.
	req, err := http.NewRequestWithContext(f.Context(), http.MethodGet, "http://payments/", http.NoBody)
	if err != nil {
		f.Fatal(err)
	}
	resp, err := net.Join(f, "orders").HTTPClient().Do(req)
	if err != nil {
		f.Fatal(err)
	}
	resp.Body.Close()
	local := (<-connection).Value(http.LocalAddrContextKey)

	f.Fuzz(func(t *testing.T, method, target, host, name, value string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host == "" && host == "" && name == "" {
			return // net/http refuses it
		}
		for _, major := range []int{1, 2} {
			r := &http.Request{
				Method: method, URL: u, RequestURI: target, Host: host, ProtoMajor: major, Header: http.Header{}, Body: http.NoBody, RemoteAddr: "192.0.2.1:1",
			}
			if u.Host != "" && major == 1 {
				r.Host = u.Host
			}
			r.Header.Add(name, value)
			got = nil
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, local)))
			if got == nil {
				if rec.Code != http.StatusBadRequest {
					t.Fatalf("%q: %d and no handler", target, rec.Code)
				}
				return
			}
			judged := seenBy.last
			if p := got.URL.Path; p != judged.Path || !clean(p) {
				t.Errorf("%q: the handler got the path %q, judged was %q", target, p, judged.Path)
			}
			if h := got.Host; h != judged.Host || h != strings.ToLower(h) || strings.HasSuffix(h, ".") || strings.ContainsAny(h, "/@?#\\, %[]") ||
				got.URL.Host != "" && got.URL.Host != h {
				t.Errorf("%q: the handler got the host %q (URL: %q), judged was %q", host, h, got.URL.Host, judged.Host)
			}
			if got.Method != judged.Method || got.Method != strings.ToUpper(got.Method) && slices.Contains([]string{"get", "post", "Put"}, got.Method) {
				t.Errorf("the handler got the method %q, judged was %q", got.Method, judged.Method)
			}
			for k := range got.Header {
				if k == "Host" || k == "X-Forwarded-Client-Cert" || k == "X-Spiffe-Id" || !slices.Equal(got.Header[k], judged.Header[k]) {
					t.Errorf("the handler got the header %s: %q, judged was %q", k, got.Header[k], judged.Header[k])
				}
			}
		}
	})
}

// clean says by other means than the code's that a path has one reading: no step that a router is known to take changes it.
func clean(p string) bool {
	if p == "*" {
		return true
	}
	again, err := url.PathUnescape(p)
	cleaned := path.Clean(p)
	if strings.HasSuffix(p, "/") && cleaned != "/" {
		cleaned += "/"
	}
	return (err != nil || again == p) && cleaned == p && utf8.ValidString(p) && p[0] == '/' && !strings.ContainsAny(p, "\\;#?\x00\r\n\x7f")
}
