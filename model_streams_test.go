package mesh_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What in the model lasts longer than its request: upgraded connections, and gRPC streams. Both echo.

// upgrade takes over a request's connection, until it is ended.
func upgrade(rw http.ResponseWriter) {
	c, rest, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	_, _ = io.Copy(c, rest)
}

// upgraded makes a use of the response to a request that was upgraded, if that works.
func upgraded(h *held, resp *http.Response, cancel context.CancelFunc) (*held, error) {
	c, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		cancel()
		return nil, fmt.Errorf("the body of %s can't be written", resp.Status)
	}
	lines := bufio.NewReader(c)
	h.close = func() { cancel(); c.Close() }
	h.ping = func() error {
		defer time.AfterFunc(time.Second, h.close).Stop()
		if _, err := fmt.Fprintln(c, h.id); err != nil {
			return err
		}
		_, err := lines.ReadString('\n')
		return err
	}
	if err := h.ping(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// modelService is the model's gRPC service.
type modelService struct {
	pb.UnimplementedTestServiceServer
	world *modelWorld
}

func (s modelService) FullDuplexCall(g grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	p, _ := mesh.PeerFromContext(g.Context())
	md, _ := metadata.FromIncomingContext(g.Context())
	_, done := s.world.open(p, use{port: "grpc", request: true}, md["x-id"][0])
	defer done()
	for {
		r, err := g.Recv()
		if err != nil {
			return err
		}
		if err := g.Send(&pb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

func (w *modelWorld) serveGRPC(m *mesh.Mesh) {
	ln, err := m.Listen(w.t.Context(), "tcp", ":0", mesh.ListenOptions{Port: "grpc", ALPN: []string{"h2"}})
	if err != nil {
		w.t.Fatal(err)
	}
	srv := grpc.NewServer(meshgrpc.ServerOptions(m, "grpc")...)
	pb.RegisterTestServiceServer(srv, modelService{world: w})
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) })
	w.closers = append(w.closers, func() { srv.Stop(); wg.Wait() })
}

func (w *modelWorld) grpcClient(m *mesh.Mesh) *grpc.ClientConn {
	cc, err := meshgrpc.NewClient(m, "payments:grpc")
	if err != nil {
		w.t.Fatal(err)
	}
	return cc
}

// stream opens a stream, and makes it a use. A connection that is cut while the stream is being opened takes it along, which gRPC does not
// repeat by itself.
func (w *modelWorld) stream(ctx context.Context, h *held) (stop func(), err error) {
	for range 3 {
		if stop, err = w.streamOnce(ctx, h); status.Code(err) != codes.Unavailable {
			break
		}
	}
	return stop, err
}

func (w *modelWorld) streamOnce(ctx context.Context, h *held) (stop func(), err error) {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "x-id", h.id))
	s, err := pb.NewTestServiceClient(w.callers[h.use.caller].grpc).FullDuplexCall(ctx, grpc.WaitForReady(true))
	if err != nil {
		return cancel, err
	}
	h.ping = func() error {
		defer time.AfterFunc(time.Second, cancel).Stop()
		if err := s.Send(&pb.StreamingOutputCallRequest{}); err != nil && err != io.EOF { //nolint:errorlint // gRPC's own
			return err
		}
		_, err := s.Recv()
		return err
	}
	return cancel, h.ping()
}
