package meshgrpc_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshgrpc"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// dials counts connections.
type dials struct {
	mesh.Network
	n atomic.Int64
}

func (d *dials) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.n.Add(1)
	return d.Network.DialContext(ctx, network, address)
}

// A client that is refused comes back when it has a call to make, not as often as the server
// closes the connection.
func TestRefusedClientStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t)
		serve(t, net.Join(t, "payments"), &greeter{})
		d := &dials{Network: net.Network()}
		c := client(t, net.JoinConfig(t, mesh.Config{Service: "orders", Network: d}), "payments")
		for i := range int64(3) {
			_, err := greet(t.Context(), c)
			wantDenied(t, err, "connection")
			<-time.After(10 * time.Minute)
			if n := d.n.Load(); n > 2*(i+1) {
				t.Fatalf("%d connections for %d calls", n, i+1)
			}
		}
	})
}

// Without a reset from the network, only silence tells that an instance is gone.
func TestFrozenInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		all := instances(t, net, 2)
		c := client(t, net.Join(t, "orders"), "payments", meshgrpc.Idempotent(service+"/UnaryCall"))
		both(t, c)
		net.Freeze(t, all[0])

		start := time.Now()
		var slow int
		for range 100 {
			before := time.Now()
			if _, err := greet(t.Context(), c); err != nil {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
			if time.Since(before) > time.Second {
				slow++
			}
			<-time.After(time.Second)
		}
		if slow > 1 {
			t.Errorf("%d calls were slow", slow)
		}
		if took := time.Since(start); took > 120*time.Second {
			t.Errorf("100 calls took %v", took)
		}
	})
}

// A pause in which the rules forbid everything ends with the first call after it.
func TestAllowedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		serve(t, net.Join(t, "payments"), &greeter{})
		c := client(t, net.Join(t, "orders"), "payments")
		for range 3 {
			if _, err := greet(t.Context(), c); err != nil {
				t.Errorf("allowed: %v", err)
			}
			net.SetRules(t)
			if _, err := greet(t.Context(), c); status.Code(err) != codes.PermissionDenied && status.Code(err) != codes.Unavailable {
				t.Errorf("forbidden: %v", err)
			}
			<-time.After(time.Minute)
			net.SetRules(t, meshtest.Allow("payments", "orders"))
		}
	})
}
