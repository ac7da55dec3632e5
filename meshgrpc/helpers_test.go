package meshgrpc_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshgrpc"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is the part of a method's name before the slash.
const service = "grpc.testing.TestService"

// greeter tells who calls and who answers.
type greeter struct {
	pb.UnimplementedTestServiceServer
	name string
	// hold, when set, is what UnaryCall waits for, after it has sent to held.
	hold, held chan struct{}
	// cause gets what ended its context.
	cause chan error
}

func (g *greeter) UnaryCall(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if g.hold != nil {
		g.held <- struct{}{}
		select {
		case <-g.hold:
		case <-ctx.Done():
			g.cause <- context.Cause(ctx)
			return &pb.SimpleResponse{}, nil // nobody should get it
		}
	}
	p, _ := mesh.PeerFromContext(ctx)
	return &pb.SimpleResponse{Username: p.ID.String(), ServerId: g.name}, nil
}

func (*greeter) EmptyCall(context.Context, *pb.Empty) (*pb.Empty, error) {
	return nil, status.Error(codes.PermissionDenied, "the application says no")
}

func (*greeter) StreamingOutputCall(r *pb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	if _, ok := mesh.PeerFromContext(s.Context()); !ok {
		return status.Error(codes.Internal, "no peer")
	}
	for range r.GetResponseParameters() {
		if err := s.Send(&pb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
	return nil
}

func (*greeter) StreamingInputCall(s grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	var n int32
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: n})
		}
		if err != nil {
			return err
		}
		n += int32(len(r.GetPayload().GetBody()))
	}
}

func (g *greeter) HalfDuplexCall(s grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	return g.FullDuplexCall(s)
}

func (*greeter) FullDuplexCall(s grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&pb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

// serve runs a server on m's default port until the end of the test.
func serve(t testing.TB, m *mesh.Mesh, g *greeter, opts ...grpc.ServerOption) *grpc.Server {
	t.Helper()
	ln, err := m.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := meshgrpc.NewServer(m, opts...)
	pb.RegisterTestServiceServer(s, g)
	serveOn(t, s, ln)
	return s
}

func serveOn(t testing.TB, s *grpc.Server, ln net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(ln); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
}

// client calls a service until the end of the test.
func client(t testing.TB, m *mesh.Mesh, target string, opts ...grpc.DialOption) pb.TestServiceClient {
	t.Helper()
	return pb.NewTestServiceClient(connect(t, m, target, opts...))
}

func connect(t testing.TB, m *mesh.Mesh, target string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := meshgrpc.NewClient(m, target, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func greet(ctx context.Context, c pb.TestServiceClient, opts ...grpc.CallOption) (*pb.SimpleResponse, error) {
	return c.UnaryCall(ctx, &pb.SimpleRequest{}, opts...)
}

// allowMethods returns a document that lets orders call these methods of payments.
func allowMethods(t testing.TB, methods ...string) string {
	t.Helper()
	raw, err := json.Marshal(methods)
	if err != nil {
		t.Fatal(err)
	}
	return `{"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "methods"},
		"spec": {"service": "payments", "action": "allow", "rules": [
			{"from": [{"services": ["orders"]}], "to": [{"grpc": ` + string(raw) + `}]}]}}`
}

// wantDenied checks that err is a denial in every way that callers look at it.
func wantDenied(t testing.TB, err error, layer string) {
	t.Helper()
	var d *mesh.DeniedError
	if status.Code(err) != codes.PermissionDenied || !errors.As(err, &d) {
		t.Fatalf("error %v, want a denial", err)
	}
	if d.Source != "spiffe://test.mesh/orders" || d.Destination != "payments" || d.Layer.String() != layer || d.Reason == "" {
		t.Errorf("denial %+v, want one at layer %s", d, layer)
	}
}
