package meshgrpc_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshgrpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

func ExampleNewServer() {
	serve := func(ctx context.Context, m *mesh.Mesh, payments pb.TestServiceServer) error {
		s := meshgrpc.NewServer(m)
		pb.RegisterTestServiceServer(s, payments)
		ln, err := m.Listen(ctx, "tcp", ":0")
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, s.GracefulStop)
		defer stop()
		return s.Serve(ln)
	}
	_ = serve
}

func ExampleNewClient() {
	call := func(ctx context.Context, m *mesh.Mesh) error {
		cc, err := meshgrpc.NewClient(m, "payments", meshgrpc.Idempotent("grpc.testing.TestService/EmptyCall"))
		if err != nil {
			return err
		}
		defer cc.Close()
		_, err = pb.NewTestServiceClient(cc).EmptyCall(ctx, &pb.Empty{})
		if denied, ok := errors.AsType[*mesh.DeniedError](err); ok {
			fmt.Println("ask for a rule:", denied.Policy, denied.Reason)
		}
		return err
	}
	_ = call
}
