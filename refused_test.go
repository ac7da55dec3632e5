package mesh_test

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"testing"

	"github.com/intramesh/mesh"
)

// A client whose connection is refused is told so as often as it asks, without connecting anew; and when the rules come to allow it, no
// request of it gets lost.
func TestRefusedConnectionIsKept(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		w := newWorld(t)
		ln := w.serveHTTP(w.join("payments"), func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "served") })
		client := w.bareHTTP(h2)
		defer client.CloseIdleConnections()
		get := func() (resp *http.Response, body string, reused bool) {
			req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused },
			}), http.MethodGet, "https://"+ln.Addr().String()+"/", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			resp, err = client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp, string(b), reused
		}
		for i := range 3 {
			if i == 2 {
				w.rules.set(rule{from: "shop", to: "payments"}) // which changes nothing for orders
			}
			resp, _, reused := get()
			d, ok := mesh.DeniedFromResponse(resp)
			if !ok || reused != (i > 0) || d.Version != map[bool]uint64{false: 1, true: 2}[i == 2] {
				t.Errorf("h2 %v: request %d: %s, reused %v, %v", h2, i, resp.Status, reused, d)
			}
		}
		w.rules.set(rule{from: "orders", to: "payments"})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if resp, body, _ := get(); body != "served" {
					t.Errorf("h2 %v: after it was allowed: %s", h2, resp.Status)
				}
			})
		}
		wg.Wait()
	}
}

// Clients that are refused don't keep a listener from closing.
func TestCloseWithRefusedConnections(t *testing.T) {
	w := newWorld(t)
	payments := w.join("payments")
	ln := w.serveHTTP(payments, func(http.ResponseWriter, *http.Request) {})
	for _, h2 := range []bool{false, true} {
		client := w.bareHTTP(h2)
		defer client.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+ln.Addr().String()+"/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if err := payments.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
