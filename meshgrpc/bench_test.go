package meshgrpc_test

import (
	"crypto/tls"
	"log/slog"
	"net"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// BenchmarkUnary compares a call over the mesh with one over gRPC's own mutual TLS, both on
// loopback sockets.
func BenchmarkUnary(b *testing.B) {
	network := meshtest.New(b, meshtest.Allow("payments", "orders"))
	b.Run("mesh", func(b *testing.B) {
		names := static.New()
		join := func(service string) *mesh.Mesh {
			return network.JoinConfig(b, mesh.Config{
				Service: service, Network: &systemNetwork{}, Discovery: names.Member(service), Logger: slog.New(slog.DiscardHandler),
			})
		}
		serve(b, join("payments"), &greeter{})
		bench(b, client(b, join("orders"), "payments"))
	})
	b.Run("tls", func(b *testing.B) {
		cfg := tlsConfig(b, network.Identity(b, "payments"))
		cfg.ClientAuth = tls.RequireAnyClientCert
		s := grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)))
		pb.RegisterTestServiceServer(s, &greeter{})
		ln, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		serveOn(b, s, ln)
		cc, err := grpc.NewClient("passthrough:///"+ln.Addr().String(),
			grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig(b, network.Identity(b, "orders")))))
		if err != nil {
			b.Fatal(err)
		}
		defer cc.Close()
		bench(b, pb.NewTestServiceClient(cc))
	})
}

func bench(b *testing.B, c pb.TestServiceClient) {
	b.Helper()
	if _, err := greet(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := greet(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
}
