package meshgrpc_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// inEnv returns a document that lets orders call payments with a header.
func inEnv(env string) string {
	return fmt.Sprintf(`{"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "in-env"},
		"spec": {"service": "payments", "action": "allow", "rules": [
			{"from": [{"services": ["orders"]}], "when": [{"key": "request.header.x-env", "values": [%q]}]}]}}`, env)
}

// A rule that looks at headers finds those of calls that came in before it.
func TestNewRuleSeesHeadersOfCallsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		serve(t, net.Join(t, "payments"), &greeter{})
		c := client(t, net.Join(t, "orders"), "payments")
		open := func(env string) func() error {
			s, err := c.FullDuplexCall(metadata.AppendToOutgoingContext(t.Context(), "x-env", env))
			if err != nil {
				t.Fatal(err)
			}
			ping(t, s)
			return func() error {
				_, err := s.Recv()
				return err
			}
		}
		prod, test := open("prod"), open("test")

		net.SetRules(t, inEnv("prod"))
		wantDenied(t, test(), "grpc")
		// Calls from now on are decided by theirs.
		later := open("prod")
		if _, err := greet(metadata.AppendToOutgoingContext(t.Context(), "x-env", "test"), c); err == nil {
			t.Error("a call with another header was let in")
		}

		net.SetRules(t, inEnv("test"))
		wantDenied(t, prod(), "grpc")
		wantDenied(t, later(), "grpc")
	})
}

// The peer and what cancels a call are found from any context that is made of the method's.
func TestMethodsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		seen := make(contexts, 2)
		serve(t, net.Join(t, "payments"), &greeter{}, seen.option())
		if _, err := greet(t.Context(), client(t, net.Join(t, "orders"), "payments")); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"its own", "a derived one"} {
			ctx := <-seen
			<-ctx.Done()
			if ctx.Err() == nil {
				t.Errorf("%s: no error after the end", name)
			}
			if p, ok := mesh.PeerFromContext(ctx); !ok || p.Service() != "orders" {
				t.Errorf("%s: the peer is %v, %v", name, p, ok)
			}
		}
	})
}

// contexts gets the contexts that a unary method had.
type contexts chan context.Context

func (c contexts) option() grpc.ServerOption {
	return grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		derived, cancel := context.WithCancel(ctx)
		context.AfterFunc(derived, cancel)
		c <- ctx
		c <- derived
		return handle(derived, req)
	})
}
