package mesh_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/intramesh/mesh"
)

// Who is near is called first, and who is far when nobody near is left.
func TestZone(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	in := func(zone string) func(*mesh.Config) { return func(c *mesh.Config) { c.Zone = zone } }
	near := make([]*mesh.Mesh, 2)
	for i, zone := range []string{"eu/a", "eu/a", "eu/b", "us/a"} {
		m := w.join("payments", in(zone))
		w.serveHTTP(m, func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, zone) })
		if i < len(near) {
			near[i] = m
		}
	}
	orders := w.join("orders", in("eu/a"))
	call := func(want string) {
		t.Helper()
		for range 40 {
			if got, err := fetch(t, orders, "http://payments/"); err != nil || got != want {
				t.Fatalf("%q answered, %v; want %s", got, err, want)
			}
		}
	}
	call("eu/a")
	for _, m := range near {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	call("eu/b")
}
