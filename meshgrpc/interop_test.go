package meshgrpc_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/meshgrpc"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// tlsConfig is that of a client without this library.
func tlsConfig(t testing.TB, src identity.Source) *tls.Config {
	t.Helper()
	svid, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		InsecureSkipVerify: true, // the server's checks are tested
	}
}

func TestPlainClient(t *testing.T) {
	network := meshtest.New(t, allowMethods(t, service+"/UnaryCall"))
	payments := network.Join(t, "payments")
	serve(t, payments, &greeter{name: "a"})
	addr := payments.Discovery().Lookup("payments").Endpoints[0].Addr
	host := network.Network()
	dial := func(creds credentials.TransportCredentials) pb.TestServiceClient {
		cc, err := grpc.NewClient("passthrough:///"+addr.String(), grpc.WithTransportCredentials(creds),
			grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
				return host.DialContext(ctx, "tcp", a)
			}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cc.Close() })
		return pb.NewTestServiceClient(cc)
	}
	orders := dial(credentials.NewTLS(tlsConfig(t, network.Identity(t, "orders"))))
	if res, err := greet(t.Context(), orders); err != nil || res.GetUsername() != "spiffe://test.mesh/orders" {
		t.Errorf("UnaryCall = %v, %v", res, err)
	}
	if _, err := orders.EmptyCall(t.Context(), &pb.Empty{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("EmptyCall: %v", err)
	}
	other := dial(credentials.NewTLS(tlsConfig(t, network.Identity(t, "other"))))
	if _, err := greet(t.Context(), other); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a service that may not: %v", err)
	}
	if _, err := greet(t.Context(), dial(insecure.NewCredentials())); status.Code(err) != codes.Unavailable {
		t.Errorf("without TLS: %v", err)
	}
}

// A server on a listener that is none of the mesh serves nobody.
func TestForeignListener(t *testing.T) {
	network := meshtest.New(t, meshtest.Allow("*", "*"))
	payments := network.Join(t, "payments")
	host := network.Network()
	cfg := tlsConfig(t, network.Identity(t, "payments"))
	cfg.NextProtos = []string{"h2"}
	for _, name := range []string{"tcp", "tls"} {
		t.Run(name, func(t *testing.T) {
			ln, err := host.Listen(t.Context(), "tcp", ":0")
			if err != nil {
				t.Fatal(err)
			}
			creds := insecure.NewCredentials()
			if name == "tls" {
				ln = tls.NewListener(ln, cfg)
				creds = credentials.NewTLS(tlsConfig(t, network.Identity(t, "orders")))
			}
			s := meshgrpc.NewServer(payments)
			pb.RegisterTestServiceServer(s, &greeter{})
			serveOn(t, s, ln)
			cc, err := grpc.NewClient("passthrough:///"+ln.Addr().String(), grpc.WithTransportCredentials(creds),
				grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
					return host.DialContext(ctx, "tcp", a)
				}))
			if err != nil {
				t.Fatal(err)
			}
			defer cc.Close()
			if _, err := greet(t.Context(), pb.NewTestServiceClient(cc)); status.Code(err) != codes.Unavailable {
				t.Errorf("the call: %v", err)
			}
		})
	}
}

// A server of one mesh on a listener of another decides nothing: it refuses.
func TestOtherMeshsListener(t *testing.T) {
	network := meshtest.New(t, meshtest.Allow("*", "*"))
	payments, other := network.Join(t, "payments"), network.Join(t, "payments")
	ln, err := payments.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	s := meshgrpc.NewServer(other)
	pb.RegisterTestServiceServer(s, &greeter{})
	serveOn(t, s, ln)
	_, err = greet(t.Context(), client(t, network.Join(t, "orders"), "payments"))
	wantDenied(t, err, "grpc")
}

func TestRealSockets(t *testing.T) {
	network := meshtest.New(t, allowMethods(t, service+"/UnaryCall"))
	names := static.New()
	join := func(service string) *mesh.Mesh {
		return network.JoinConfig(t, mesh.Config{Service: service, Network: &systemNetwork{}, Discovery: names.Member(service)})
	}
	serve(t, join("payments"), &greeter{name: "a"})
	orders := client(t, join("orders"), "payments")
	if res, err := greet(t.Context(), orders); err != nil || res.GetServerId() != "a" {
		t.Errorf("UnaryCall = %v, %v", res, err)
	}
	_, err := orders.EmptyCall(t.Context(), &pb.Empty{})
	wantDenied(t, err, "grpc")
}

type systemNetwork struct {
	net.Dialer
	net.ListenConfig
}

// Users test their gRPC services with a virtual clock.
func TestInSynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := meshtest.New(t, meshtest.Allow("payments", "orders"))
		serve(t, network.Join(t, "payments"), &greeter{name: "a"})
		if _, err := greet(t.Context(), client(t, network.Join(t, "orders"), "payments")); err != nil {
			t.Error(err)
		}
	})
}
