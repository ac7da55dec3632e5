package meshgrpc

import (
	"context"
	"slices"

	"github.com/intramesh/mesh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// deniedKey is the trailer that carries the denial.
const deniedKey = "mesh-denied"

// deniedError is a *mesh.DeniedError that is a gRPC status as well.
type deniedError struct {
	denied *mesh.DeniedError
	status *status.Status
}

func newDeniedError(d *mesh.DeniedError) *deniedError {
	return &deniedError{d, status.New(codes.PermissionDenied, d.Error())}
}

func (e *deniedError) Error() string              { return e.status.Err().Error() }
func (e *deniedError) Unwrap() error              { return e.denied }
func (e *deniedError) GRPCStatus() *status.Status { return e.status }

// explain finds out whether err is a denial by the mesh of the server, which may say so in the
// trailer, and not one by the application.
func explain(err error, trailer metadata.MD) error {
	v := trailer.Get(deniedKey)
	if len(v) != 1 || status.Code(err) != codes.PermissionDenied {
		return err
	}
	d, ok := mesh.ParseDenied(v[0])
	if !ok {
		return err
	}
	return &deniedError{d, status.Convert(err)}
}

func unaryClientInterceptor(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var trailer metadata.MD
	// Appended to a slice of our own: the caller may use its one again.
	opts = append(slices.Clip(opts), grpc.Trailer(&trailer))
	if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
		return explain(err, trailer)
	}
	return nil
}

func streamClientInterceptor(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(context.WithValue(ctx, streamKey{}, true), desc, cc, method, opts...)
	if err != nil {
		return nil, err
	}
	return &clientStream{s}, nil
}

type clientStream struct{ grpc.ClientStream }

// RecvMsg is where a stream's status comes out, whatever failed.
func (s *clientStream) RecvMsg(m any) error {
	if err := s.ClientStream.RecvMsg(m); err != nil {
		return explain(err, s.Trailer())
	}
	return nil
}
