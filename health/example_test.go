package health_test

import (
	"context"
	"log"
	"net/http"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/health"
)

// A process whose application answers on localhost, and is announced as ready while that is well.
func ExampleWatch() {
	serve := func(ctx context.Context, m *mesh.Mesh, app http.Handler) error {
		check, err := health.HTTP("http://127.0.0.1:8080/healthz")
		if err != nil {
			return err
		}
		defer health.Watch(m, check, health.Config{})()
		ln, err := m.Listen(ctx, "tcp", ":0")
		if err != nil {
			return err
		}
		return http.Serve(ln, m.Handler(app))
	}
	_ = serve // it needs a mesh
}

// A client that finds out which instances of payments are ill before it sends them anything.
func ExampleEndpoints() {
	charge := func(m *mesh.Mesh) {
		stop, err := health.Endpoints(m, "payments", health.Get("/healthz"), health.Config{})
		if err != nil {
			log.Fatal(err)
		}
		defer stop()
		resp, err := m.HTTPClient().Post("http://payments/charge", "", http.NoBody)
		if err == nil {
			_ = resp.Body.Close()
		}
	}
	_ = charge // it needs a mesh
}
