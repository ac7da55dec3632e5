package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// sendBytes answers GET /bytes/N with N bytes.
func sendBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Path[len("/bytes/"):])
	if err != nil || n < 0 || n > maxRawSize {
		http.Error(w, "no such size", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(n))
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(make([]byte, n))
}

// httpWorker makes one request after the other.
func httpWorker(service string) func(clientEnd, load, int) (worker, error) {
	return func(c clientEnd, l load, _ int) (worker, error) {
		client, url := c.http(service)
		buf := make([]byte, l.Size+1)
		url += "/bytes/" + strconv.Itoa(l.Size)
		return worker{warm: 10, op: func() (time.Duration, error) {
			start := time.Now()
			req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
			if err != nil {
				return 0, err
			}
			resp, err := client.Do(req)
			if err != nil {
				return 0, err
			}
			n, err := io.ReadFull(resp.Body, buf)
			_ = resp.Body.Close()
			if n != l.Size || !errors.Is(err, io.ErrUnexpectedEOF) || resp.StatusCode != http.StatusOK {
				return 0, fmt.Errorf("%s: %s, %d bytes, %w", url, resp.Status, n, err)
			}
			return time.Since(start), nil
		}}, nil
	}
}

const (
	echoMethod   = "/bench.v1.Echo/Echo"
	streamMethod = "/bench.v1.Echo/Stream"
)

func streamDesc() grpc.StreamDesc {
	return grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			m := new(wrapperspb.BytesValue)
			if err := s.RecvMsg(m); err != nil {
				return nil //nolint:nilerr // the client is done
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}}
}

// echoServer is what a gRPC service needs to be registered.
type echoServer interface {
	Echo(context.Context, *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error)
}

type echoes struct{}

func (echoes) Echo(_ context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	return in, nil
}

func serveGRPC(s *grpc.Server, ln net.Listener) { serveEcho(s, echoes{}, ln) }

func serveEcho(s *grpc.Server, e echoServer, ln net.Listener) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench.v1.Echo", HandlerType: (*echoServer)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Echo", Handler: handleEcho}},
		Streams: []grpc.StreamDesc{streamDesc()},
	}, e)
	_ = s.Serve(ln)
}

func handleEcho(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // gRPC's signature
	in := new(wrapperspb.BytesValue)
	if err := dec(in); err != nil {
		return nil, err
	}
	handler := func(ctx context.Context, req any) (any, error) {
		return srv.(echoServer).Echo(ctx, req.(*wrapperspb.BytesValue))
	}
	if interceptor == nil {
		return handler(ctx, in)
	}
	return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: echoMethod}, handler)
}

// grpcWorker makes unary calls .
func grpcWorker(c clientEnd, l load, _ int) (worker, error) {
	cc, err := c.grpc()
	if err != nil {
		return worker{}, err
	}
	in := wrapperspb.Bytes(make([]byte, l.Size))
	return worker{warm: 10, op: func() (time.Duration, error) {
		start := time.Now()
		out := new(wrapperspb.BytesValue)
		if err := cc.Invoke(context.Background(), echoMethod, in, out); err != nil {
			return 0, err
		}
		if len(out.GetValue()) != l.Size {
			return 0, errors.New("the echo has another size")
		}
		return time.Since(start), nil
	}}, nil
}

// streamWorker sends a message on a stream of its own and waits for it to come back.
func streamWorker(c clientEnd, l load, _ int) (worker, error) {
	cc, err := c.grpc()
	if err != nil {
		return worker{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	desc := streamDesc()
	s, err := cc.NewStream(ctx, &desc, streamMethod)
	if err != nil {
		cancel()
		return worker{}, err
	}
	in := wrapperspb.Bytes(make([]byte, l.Size))
	return worker{warm: 10, close: cancel, op: func() (time.Duration, error) {
		start := time.Now()
		if err := s.SendMsg(in); err != nil {
			return 0, err
		}
		err := s.RecvMsg(new(wrapperspb.BytesValue))
		return time.Since(start), err
	}}, nil
}
