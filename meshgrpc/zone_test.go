package meshgrpc_test

import (
	"testing"
	"testing/synctest"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
)

// Who is near is called once it is connected, and who is far when it is gone.
func TestZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		in := func(zone, service string) *mesh.Mesh {
			return net.JoinConfig(t, mesh.Config{Service: service, Zone: zone})
		}
		near, far := in("eu/a", "payments"), in("eu/b", "payments")
		serve(t, near, &greeter{name: "near"})
		serve(t, far, &greeter{name: "far"})
		c := client(t, in("eu/a", "orders"), "payments")
		call := func() string {
			t.Helper()
			res, err := greet(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			return res.GetServerId()
		}
		call() // far may be connected first
		synctest.Wait()
		for range 50 {
			if got := call(); got != "near" {
				t.Fatalf("%s answered", got)
			}
		}
		net.Kill(t, near)
		synctest.Wait()
		for range 50 {
			if got := call(); got != "far" {
				t.Fatalf("%s answered", got)
			}
		}
	})
}
