package meshgrpc_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// Calls under way end when the rules forbid them; others on the same connection go on.
func TestRulesEndCallsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, allowMethods(t, service+"/*"))
		stuck := &greeter{hold: make(chan struct{}), held: make(chan struct{}), cause: make(chan error, 1)}
		serve(t, net.Join(t, "payments"), stuck)
		d := &dials{Network: net.Network()}
		c := client(t, net.JoinConfig(t, mesh.Config{Service: "orders", Network: d}), "payments")

		kept, err := c.HalfDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cut, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []grpc.BidiStreamingClient[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]{kept, cut} {
			ping(t, s)
		}
		unary := make(chan error, 1)
		go func() {
			_, err := greet(t.Context(), c)
			unary <- err
		}()
		<-stuck.held

		net.SetRules(t, allowMethods(t, service+"/HalfDuplexCall"))
		_, err = cut.Recv()
		wantDenied(t, err, "grpc")
		wantDenied(t, <-unary, "grpc")
		if d := (*mesh.DeniedError)(nil); !errors.As(<-stuck.cause, &d) || d.Version != 2 {
			t.Errorf("the method's context ended with %v", d)
		}
		ping(t, kept)
		if n := d.n.Load(); n != 1 {
			t.Errorf("%d connections: the one that is still allowed was closed", n)
		}

		net.SetRules(t)
		if _, err := kept.Recv(); err == nil {
			t.Error("the last call goes on")
		}
	})
}

// A call ends even if its method doesn't, and the method can't get a word out any more.
func TestRulesEndCallOfDeafMethod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, allowMethods(t, service+"/*"))
		returned := make(chan struct{})
		proceed := make(chan struct{})
		deaf := func(_ any, s grpc.ServerStream, _ *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
			defer close(returned)
			if err := s.SendMsg(&pb.StreamingOutputCallResponse{}); err != nil {
				t.Errorf("while it is allowed: %v", err)
			}
			<-proceed
			wantDenied(t, s.SendMsg(&pb.StreamingOutputCallResponse{}), "grpc")
			wantDenied(t, s.RecvMsg(&pb.StreamingOutputCallRequest{}), "grpc")
			return nil
		}
		serve(t, net.Join(t, "payments"), &greeter{}, grpc.ChainStreamInterceptor(deaf))
		c := client(t, net.Join(t, "orders"), "payments")
		s, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
		net.SetRules(t, allowMethods(t, service+"/UnaryCall"))
		_, err = s.Recv()
		wantDenied(t, err, "grpc")
		close(proceed)
		<-returned
	})
}

func ping(t testing.TB, s grpc.BidiStreamingClient[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) {
	t.Helper()
	if err := s.Send(&pb.StreamingOutputCallRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
}
