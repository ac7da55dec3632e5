package mesh_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh"
)

// bareHTTP is orders as an HTTP client without any of our code.
func (w *world) bareHTTP(h2 bool) *http.Client {
	w.t.Helper()
	conf := w.bareClient()
	tr := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: h2}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 10 * time.Second}
}

func TestHandlerDecidesEachRequest(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments", path: "/charge"})
	payments := w.join("payments")
	ln := w.serveHTTP(payments, func(rw http.ResponseWriter, r *http.Request) {
		p, ok := mesh.PeerFromContext(r.Context())
		fmt.Fprintf(rw, "%s %v %s %s %s", p.ID, ok, r.Proto, r.Host, r.Header.Get("X-Forwarded-Client-Cert"))
	})
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			c := w.bareHTTP(proto == "HTTP/2.0")
			get := func(path string) (*http.Response, string) {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+ln.Addr().String()+path, http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = "PAYMENTS.:8443"
				req.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://prod.example/admin")
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp, string(b)
			}
			if resp, body := get("/charge"); resp.StatusCode != http.StatusOK || body != "spiffe://prod.example/orders true "+proto+" payments " {
				t.Errorf("allowed request: %s %q", resp.Status, body)
			}
			resp, body := get("/admin")
			var problem struct {
				Status int
				Denied mesh.DeniedError
			}
			if err := json.Unmarshal([]byte(body), &problem); err != nil {
				t.Fatalf("%v in %q", err, body)
			}
			d, ok := mesh.DeniedFromResponse(resp)
			if !ok || resp.StatusCode != http.StatusForbidden || problem.Status != http.StatusForbidden ||
				*d != problem.Denied || d.Layer.String() != "http" || d.Destination != "payments" {
				t.Errorf("denied request: %s %q, header %+v", resp.Status, body, d)
			}
			if resp, body := get("/charge"); resp.StatusCode != http.StatusOK {
				t.Errorf("after a denial on the same connection: %s %q", resp.Status, body)
			}
		})
	}
}

func TestDeniedHTTPConnectionSaysWhy(t *testing.T) {
	w := newWorld(t)
	payments := w.join("payments")
	ln := w.serveHTTP(payments, func(http.ResponseWriter, *http.Request) { t.Error("the handler was reached") })
	for _, h2 := range []bool{false, true} {
		resp := w.call(h2, http.MethodGet, ln.Addr().String(), "/charge")
		if d, ok := mesh.DeniedFromResponse(resp); !ok || d.Layer.String() != "connection" {
			t.Errorf("h2=%v: %s, denial %+v", h2, resp.Status, d)
		}
	}
	resp := w.call(true, http.MethodPost, ln.Addr().String(), "/pay.v1.Payments/Charge", "application/grpc")
	if resp.Header.Get("Grpc-Status") != "7" || !strings.Contains(resp.Header.Get("Grpc-Message"), "denied") {
		t.Errorf("gRPC caller got %v", resp.Header)
	}
}

// call makes one request as orders and returns the response, its body read and closed.
func (w *world) call(h2 bool, method, addr, path string, contentType ...string) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "https://"+addr+path, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header["Content-Type"] = contentType
	resp, err := w.bareHTTP(h2).Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp
}

// A request-level rule must not open a listener that nobody decides requests on, whatever the client says it speaks.
func TestRequestRuleDoesNotOpenRawListener(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments", path: "/charge"})
	payments := w.join("payments")
	_ = payments.Handler(http.NotFoundHandler(), "web") // for another port
	ln := w.listen(payments)
	w.echo(ln)
	for _, alpn := range [][]string{{"h2"}, {"http/1.1"}, {"mesh/2"}, nil} {
		conf := w.bareClient()
		conf.NextProtos = alpn
		c, err := dialTLS(t, ln.Addr().String(), conf)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(c, "secret")
		b, _ := io.ReadAll(c)
		if strings.Contains(string(b), "secret") {
			t.Errorf("ALPN %v: the raw server was reached", alpn)
		}
		c.Close()
	}
}

func TestHandlerOnForeignListenerRefuses(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments := w.join("payments")
	h := payments.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the handler was reached") }), "web")
	ln := w.listen(payments) // the default port, for which h was not made
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	resp := w.call(true, http.MethodGet, ln.Addr().String(), "/")
	if resp.StatusCode != http.StatusInternalServerError {
		t.Errorf("handler for another port: %s", resp.Status)
	}
}

func TestPathsWithTwoReadings(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments", path: "/"})
	payments := w.join("payments")
	ln := w.serveHTTP(payments, func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, r.URL.Path) })
	conf := w.bareClient()
	conf.NextProtos = []string{"http/1.1"}
	for target, want := range map[string]string{
		"/":                    "/",
		"/admin":               "/admin",
		"/admin/":              "/admin/",
		"/%61dmin":             "/admin",
		"/a%20b":               "/a b",
		"/caf%C3%A9":           "/café",
		"/100%25":              "/100%",
		"/admin?x=/../":        "/admin",
		"//admin":              "",
		"/x/../admin":          "",
		"/./admin":             "",
		"/admin/.":             "",
		"/admin/..":            "",
		"/x//admin":            "",
		"/%2fadmin":            "",
		"/x%2Fadmin":           "",
		"/x%2f..%2fadmin":      "",
		"/%2e%2e/admin":        "",
		"/.%2E/admin":          "",
		"/%252e%252e/admin":    "",
		"/%252fadmin":          "",
		"/x\\admin":            "",
		"/x%5cadmin":           "",
		"/admin%00":            "",
		"/admin;v=1":           "",
		"/admin%3Bv=1":         "",
		"/admin%23":            "",
		"/admin%3F":            "",
		"/%c0%afadmin":         "",
		"/admin%c0%80":         "",
		"/admin%0a":            "",
		"/admin%7f":            "",
		"*":                    "",
		"admin":                "",
		"http://x/../admin":    "",
		"https://payments/web": "/web",
	} {
		c, err := dialTLS(t, ln.Addr().String(), conf)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: payments\r\nConnection: close\r\n\r\n", target)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		c.Close()
		if want == "" && resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s %q, want 400", target, resp.Status, b)
		}
		if want != "" && (resp.StatusCode != http.StatusOK || string(b) != want) {
			t.Errorf("%s: %s %q, want %q", target, resp.Status, b, want)
		}
	}
}
