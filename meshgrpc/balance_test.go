package meshgrpc_test

import (
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshgrpc"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// instances starts so many instances of payments, which answer as "a", "b" and so on.
func instances(t *testing.T, net *meshtest.Net, n int) []*mesh.Mesh {
	t.Helper()
	var all []*mesh.Mesh
	for i := range n {
		m := net.Join(t, "payments")
		serve(t, m, &greeter{name: string(rune('a' + i))})
		all = append(all, m)
	}
	return all
}

// both calls until each of two instances has answered, so that both are connected.
func both(t *testing.T, c pb.TestServiceClient) {
	t.Helper()
	seen := make(map[string]bool)
	for len(seen) < 2 {
		res, err := greet(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		seen[res.GetServerId()] = true
	}
}

// In the bubble all calls take the same time.
func TestCallsAreBalanced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		instances(t, net, 2)
		c := client(t, net.Join(t, "orders"), "payments")
		both(t, c)
		count := make(map[string]int)
		const calls = 400
		for range calls {
			res, err := greet(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			count[res.GetServerId()]++
		}
		// A binomial of 400 with one half is outside of 200±60 once in 10⁹.
		if count["a"] < 140 || count["b"] < 140 {
			t.Errorf("%d calls went %v", calls, count)
		}
	})
}

func TestCallsGoToTheLessLoaded(t *testing.T) {
	net := meshtest.New(t, meshtest.Allow("payments", "orders"))
	stuck := &greeter{name: "stuck", hold: make(chan struct{}), held: make(chan struct{})}
	serve(t, net.Join(t, "payments"), stuck)
	serve(t, net.Join(t, "payments"), &greeter{name: "quick"})
	c := client(t, net.Join(t, "orders"), "payments")

	// One call after the other, but for those that get stuck.
	var wg sync.WaitGroup
	got := 0
	for range 400 {
		done := make(chan struct{})
		wg.Go(func() {
			defer close(done)
			if _, err := greet(t.Context(), c); err != nil {
				t.Error(err)
			}
		})
		select {
		case <-done:
		case <-stuck.held:
			got++
		}
	}
	close(stuck.hold)
	wg.Wait()
	// It is chosen when both random choices fall on it: one call in four. At random it would be one in two.
	if got == 0 || got > 150 {
		t.Errorf("%d calls of 400 went to the stuck instance", got)
	}
}

func TestKilledInstance(t *testing.T) {
	net := meshtest.New(t, meshtest.Allow("payments", "orders"))
	all := instances(t, net, 2)
	c := client(t, net.Join(t, "orders"), "payments", meshgrpc.Idempotent(service+"/UnaryCall"))
	both(t, c)

	// Calls in flight when the instance dies are made again; later ones go to the other.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := greet(t.Context(), c); err != nil {
					t.Errorf("a call failed: %v", err)
					return
				}
			}
		})
	}
	net.Kill(t, all[0])
	for range 100 {
		if res, err := greet(t.Context(), c); err != nil || res.GetServerId() != "b" && !t.Failed() {
			t.Errorf("after the kill: %v, %v", res, err)
		}
	}
	close(stop)
	wg.Wait()

	// A new instance is found, and used.
	serve(t, net.Join(t, "payments"), &greeter{name: "c"})
	for {
		res, err := greet(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if res.GetServerId() == "c" {
			break
		}
	}
}

func TestRestartedService(t *testing.T) {
	net := meshtest.New(t, meshtest.Allow("payments", "orders"))
	only := instances(t, net, 1)[0]
	c := client(t, net.Join(t, "orders"), "payments")
	if _, err := greet(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	net.Kill(t, only)
	if _, err := greet(t.Context(), c); status.Code(err) != codes.Unavailable {
		t.Errorf("with the only instance dead: %v", err)
	}
	serve(t, net.Join(t, "payments"), &greeter{name: "new"})
	if res, err := greet(t.Context(), c, grpc.WaitForReady(true)); err != nil || res.GetServerId() != "new" {
		t.Errorf("after the restart: %v, %v", res, err)
	}
}

// Draining takes new calls elsewhere, and leaves those under way alone.
func TestGracefulStop(t *testing.T) {
	net := meshtest.New(t, meshtest.Allow("payments", "orders"))
	old := net.Join(t, "payments")
	srv := serve(t, old, &greeter{name: "old"})
	c := client(t, net.Join(t, "orders"), "payments")
	stream, err := c.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ping(t, stream)
	serve(t, net.Join(t, "payments"), &greeter{name: "new"})
	for { // until the client has heard of it: before, there is nowhere else to go
		if res, err := greet(t.Context(), c); err != nil {
			t.Fatal(err)
		} else if res.GetServerId() == "new" {
			break
		}
	}

	var wg sync.WaitGroup
	wg.Go(srv.GracefulStop)
	wg.Go(func() {
		if err := old.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	for range 100 {
		if _, err := greet(t.Context(), c); err != nil {
			t.Errorf("while the old instance drains: %v", err)
		}
	}
	<-old.Draining()
	for {
		if res, err := greet(t.Context(), c); err != nil || res.GetServerId() == "new" {
			break
		}
	}
	ping(t, stream)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end of the stream: %v", err)
	}
	wg.Wait()
}
