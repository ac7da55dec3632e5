package meshgrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshgrpc"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestEveryKindOfCall(t *testing.T) {
	net := meshtest.New(t, meshtest.Allow("payments", "orders"))
	serve(t, net.Join(t, "payments"), &greeter{name: "a"})
	c := client(t, net.Join(t, "orders"), "mesh:///payments")
	payload := &pb.Payload{Body: []byte("12345")}

	t.Run("unary", func(t *testing.T) {
		var p peer.Peer
		res, err := greet(t.Context(), c, grpc.Peer(&p))
		if err != nil || res.GetUsername() != "spiffe://test.mesh/orders" {
			t.Errorf("UnaryCall = %v, %v", res, err)
		}
		info, ok := p.AuthInfo.(meshgrpc.AuthInfo)
		if !ok || info.Peer.Service() != "payments" {
			t.Errorf("AuthInfo = %#v", p.AuthInfo)
		}
	})
	t.Run("server stream", func(t *testing.T) {
		s, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{
			Payload: payload, ResponseParameters: make([]*pb.ResponseParameters, 3),
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if r, err := s.Recv(); err != nil || string(r.GetPayload().GetBody()) != "12345" {
				t.Errorf("Recv = %v, %v", r, err)
			}
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("the end: %v", err)
		}
	})
	t.Run("client stream", func(t *testing.T) {
		s, err := c.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := s.Send(&pb.StreamingInputCallRequest{Payload: payload}); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := s.CloseAndRecv(); err != nil || r.GetAggregatedPayloadSize() != 15 {
			t.Errorf("CloseAndRecv = %v, %v", r, err)
		}
	})
	t.Run("both", func(t *testing.T) {
		s, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := s.Send(&pb.StreamingOutputCallRequest{Payload: payload}); err != nil {
				t.Fatal(err)
			}
			if r, err := s.Recv(); err != nil || string(r.GetPayload().GetBody()) != "12345" {
				t.Errorf("Recv = %v, %v", r, err)
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("the end: %v", err)
		}
	})
}

func TestDenied(t *testing.T) {
	for name, c := range map[string]struct {
		rules []string
		layer string
	}{
		"the connection": {nil, "connection"},
		"the call":       {[]string{"grpc.health.v1.Health/*"}, "grpc"},
	} {
		t.Run(name, func(t *testing.T) {
			net := meshtest.New(t)
			if c.rules != nil {
				net.SetRules(t, allowMethods(t, c.rules...))
			}
			serve(t, net.Join(t, "payments"), &greeter{})
			orders := client(t, net.Join(t, "orders"), "payments")

			_, err := greet(t.Context(), orders)
			wantDenied(t, err, c.layer)

			in, err := orders.StreamingInputCall(t.Context())
			if err == nil {
				_, err = in.CloseAndRecv()
			}
			wantDenied(t, err, c.layer)

			out, err := orders.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
			if err == nil {
				_, err = out.Recv()
			}
			wantDenied(t, err, c.layer)

			net.SetRules(t, allowMethods(t, service+"/UnaryCall"))
			if _, err := greet(t.Context(), orders, grpc.WaitForReady(true)); err != nil {
				t.Errorf("after the rules allow it: %v", err)
			}
			out, err = orders.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
			if err == nil {
				_, err = out.Recv()
			}
			wantDenied(t, err, "grpc")
			if !strings.Contains(err.Error(), "StreamingOutputCall") {
				t.Errorf("the reason does not name the method: %v", err)
			}
		})
	}
}

// A refusal by the application is none by the mesh.
func TestApplicationDenies(t *testing.T) {
	net := meshtest.New(t, meshtest.Allow("payments", "orders"))
	serve(t, net.Join(t, "payments"), &greeter{})
	_, err := client(t, net.Join(t, "orders"), "payments").EmptyCall(t.Context(), &pb.Empty{})
	var d *mesh.DeniedError
	if status.Code(err) != codes.PermissionDenied || errors.As(err, &d) {
		t.Errorf("error %v (%v), want a plain status", err, d)
	}
}

// The server's own interceptors see the denial as a typed error; what they put before the
// decision runs, what they put after it does not.
func TestServerInterceptors(t *testing.T) {
	net := meshtest.New(t, allowMethods(t, "none/Such"))
	var before error
	after := false
	serve(t, net.Join(t, "payments"), &greeter{},
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			res, err := h(ctx, req)
			before = err
			return res, err
		}),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			after = true
			return h(ctx, req)
		}))
	_, err := greet(t.Context(), client(t, net.Join(t, "orders"), "payments"))
	wantDenied(t, err, "grpc")
	wantDenied(t, before, "grpc")
	if after {
		t.Error("an interceptor after the decision saw a refused call")
	}
}

func TestMethodNames(t *testing.T) {
	net := meshtest.New(t, allowMethods(t, service+"/UnaryCall", service+"/Missing"))
	serve(t, net.Join(t, "payments"), &greeter{})
	cc := connect(t, net.Join(t, "orders"), "payments")
	for method, want := range map[string]codes.Code{
		"/" + service + "/UnaryCall":   codes.OK,
		"/" + service + "/Missing":     codes.Unimplemented,
		"/" + service + "/Other":       codes.PermissionDenied,
		"/other.Service/UnaryCall":     codes.PermissionDenied,
		"//" + service + "/UnaryCall":  codes.Unimplemented,
		"/" + service + "//UnaryCall":  codes.Unimplemented,
		"/" + service + "/UnaryCall/":  codes.Unimplemented,
		"/" + service + "/":            codes.Unimplemented,
		"/x/" + service + "/UnaryCall": codes.Unimplemented,
	} {
		err := cc.Invoke(t.Context(), method, &pb.SimpleRequest{}, &pb.SimpleResponse{})
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", method, err, want)
		}
	}
}

func TestMetadata(t *testing.T) {
	net := meshtest.New(t, `{"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "tenants"},
		"spec": {"service": "payments", "action": "allow", "rules": [
			{"to": [{"grpc": ["grpc.testing.TestService/UnaryCall"]}],
			 "when": [{"key": "request.header.x-tenant", "values": ["a"]}]}]}}`)
	claimed := false
	serve(t, net.Join(t, "payments"), &greeter{}, grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			claimed = len(metadata.ValueFromIncomingContext(ctx, "x-forwarded-client-cert")) > 0
			return h(ctx, req)
		}))
	orders := client(t, net.Join(t, "orders"), "payments")
	call := func(kv ...string) error {
		_, err := greet(metadata.AppendToOutgoingContext(t.Context(), kv...), orders)
		return err
	}
	if err := call("x-tenant", "a", "X-Forwarded-Client-Cert", "admin"); err != nil {
		t.Errorf("the right tenant: %v", err)
	}
	if claimed {
		t.Error("a method sees a forged identity")
	}
	wantDenied(t, call("x-tenant", "b"), "grpc")
	wantDenied(t, call("x-tenant", "a", "x-tenant", "b"), "grpc")
	wantDenied(t, call(), "grpc")
}

func TestTargets(t *testing.T) {
	net := meshtest.New(t, meshtest.Allow("*", "*"))
	m := net.Join(t, "billing/invoices")
	serve(t, m, &greeter{name: "default"})
	ln, err := m.Listen(t.Context(), "tcp", ":0", mesh.ListenOptions{Port: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	admin := grpc.NewServer(meshgrpc.ServerOptions(m, "admin")...)
	pb.RegisterTestServiceServer(admin, &greeter{name: "admin"})
	serveOn(t, admin, ln)
	orders := net.Join(t, "orders")

	for target, want := range map[string]string{
		"billing/invoices":               "default",
		"billing.invoices":               "default",
		"mesh:///billing/invoices":       "default",
		"billing.invoices:admin":         "admin",
		"mesh:///billing.invoices:admin": "admin",
	} {
		// Neither another authority nor another server name may change who is verified.
		res, err := greet(t.Context(), client(t, orders, target, grpc.WithAuthority("elsewhere")))
		if err != nil || res.GetServerId() != want {
			t.Errorf("%s: %v, %v", target, res, err)
		}
	}
	for _, target := range []string{"", "mesh:///", "mesh://host/payments", "Payments", "pay ments", "dns:///payments"} {
		if cc, err := meshgrpc.NewClient(orders, target); err == nil {
			cc.Close()
			t.Errorf("NewClient took %q", target)
		}
	}
	for _, target := range []string{"nobody", "billing.invoices:web"} {
		_, err := greet(t.Context(), client(t, orders, target))
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), mesh.ErrNoEndpoints.Error()) {
			t.Errorf("%s: %v", target, err)
		}
	}
	for _, target := range []string{
		"passthrough:///10.0.0.1:1", // names no service to verify
		"mesh://host/billing.invoices",
	} {
		cc, err := grpc.NewClient(target, meshgrpc.DialOptions(orders)...)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		if _, err := greet(t.Context(), pb.NewTestServiceClient(cc)); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "mesh:///") {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestIdempotentPanics(t *testing.T) {
	for _, bad := range []string{"", "/", "a/b/c", "/a"} {
		t.Run(fmt.Sprintf("%q", bad), func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			meshgrpc.Idempotent(bad)
		})
	}
}
