package meshgrpc

import (
	"context"

	"github.com/intramesh/mesh"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A denial travels in the details of the status, as a google.rpc.ErrorInfo
// (https://google.aip.dev/193#errorinfo) of this reason and domain, whose metadata has it under deniedKey.
const (
	deniedReason = "MESH_DENIED"
	deniedDomain = "github.com/intramesh/mesh"
	deniedKey    = "mesh-denied"
)

// deniedError is a *mesh.DeniedError that is a gRPC status as well.
type deniedError struct {
	denied *mesh.DeniedError
	status *status.Status
}

func newDeniedError(d *mesh.DeniedError) *deniedError {
	bare := status.New(codes.PermissionDenied, d.Told().Error())
	if !d.Tell {
		return &deniedError{d, bare}
	}
	s, err := bare.WithDetails(&errdetails.ErrorInfo{
		Reason: deniedReason, Domain: deniedDomain, Metadata: map[string]string{deniedKey: d.Encode()},
	})
	if err != nil { // it is not UTF-8
		s = bare
	}
	return &deniedError{d, s}
}

func (e *deniedError) Error() string              { return e.status.Err().Error() }
func (e *deniedError) Unwrap() error              { return e.denied }
func (e *deniedError) GRPCStatus() *status.Status { return e.status }

// explain finds out whether err is a denial by the mesh of the server, which says so in the details, and not one by the
// application.
func explain(err error) error {
	s := status.Convert(err)
	if s.Code() != codes.PermissionDenied {
		return err
	}
	for _, detail := range s.Details() {
		i, ok := detail.(*errdetails.ErrorInfo)
		if !ok || i.GetReason() != deniedReason || i.GetDomain() != deniedDomain {
			continue
		}
		if d, ok := mesh.ParseDenied(i.GetMetadata()[deniedKey]); ok {
			return &deniedError{d, s}
		}
	}
	return err
}

func unaryClientInterceptor(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := invoke(ctx, method, req, reply, cc, opts...); err != nil {
		return explain(err)
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
		return explain(err)
	}
	return nil
}
