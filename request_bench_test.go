package mesh_test

import (
	"net/http"
	"testing"

	"github.com/intramesh/mesh/meshtest"
)

// BenchmarkRequest is what the mesh does on a server for a request, and nothing that net/http does: within a handler, a handler of
// the mesh is called again and again.
func BenchmarkRequest(b *testing.B) {
	n := meshtest.New(b, meshtest.Allow("payments", "orders"))
	payments := n.Join(b, "payments")
	ln, err := payments.Listen(b.Context(), "tcp", ":0")
	if err != nil {
		b.Fatal(err)
	}
	inner := payments.Handler(http.HandlerFunc(ok))
	srv := &http.Server{Handler: payments.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.ReportAllocs()
		for b.Loop() {
			inner.ServeHTTP(w, r)
		}
	}))}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	if _, err := tryGet(b.Context(), n.Join(b, "orders").HTTPClient(), "http://payments/v1/charge"); err != nil {
		b.Fatal(err)
	}
	_ = srv.Close()
	<-done
}
