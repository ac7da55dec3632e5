package meshgrpc_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// More calls at once than there are goroutines that wait for calls.
func TestManyCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		g := &greeter{hold: make(chan struct{}), held: make(chan struct{}), cause: make(chan error, n)}
		serve(t, net.Join(t, "payments"), g)
		c := client(t, net.Join(t, "orders"), "payments")
		results := make(chan error, n)
		for range n {
			go func() {
				_, err := greet(t.Context(), c)
				results <- err
			}()
		}
		for range n {
			<-g.held
		}
		close(g.hold)
		for range n {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What a method does not read stays with its caller, but for a window of 1 MiB; other calls on the connection go on.
func TestUnreadMessagesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		deaf := func(_ any, s grpc.ServerStream, _ *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
			<-s.Context().Done()
			return nil
		}
		serve(t, net.Join(t, "payments"), &greeter{}, grpc.ChainStreamInterceptor(deaf))
		c := client(t, net.Join(t, "orders"), "payments")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := c.StreamingInputCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var sent atomic.Int64
		r := &pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, 16<<10)}}
		go func() {
			for sent.Load() < 8<<20 && s.Send(r) == nil {
				sent.Add(16 << 10)
			}
		}()
		synctest.Wait()
		if n := sent.Load(); n < 1<<20 || n > 5<<18 {
			t.Errorf("the caller was rid of %d bytes, want little more than 1 MiB", n)
		}
		if _, err := greet(t.Context(), c); err != nil {
			t.Errorf("a call beside it: %v", err)
		}
	})
}
