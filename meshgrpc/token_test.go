package meshgrpc_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"github.com/intramesh/mesh/policy"
	"google.golang.org/grpc/metadata"
)

// tokens lets every token hold for a time; its subject is its text.
type tokens struct{ until time.Time }

func (v tokens) Verify(token string, _ []*policy.TokenIssuer) (*policy.Token, error) {
	if !time.Now().Before(v.until) {
		return nil, errors.New("the token has expired")
	}
	return &policy.Token{Claims: map[string]any{"sub": token}, Until: v.until}, nil
}

const tokenRules = `[{"apiVersion": "mesh/v1", "kind": "TokenIssuer", "metadata": {"name": "idp"}, "spec": {"issuer": "x", "audiences": ["y"], "jwksURL": "https://idp.example/keys"}},
	{"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "alice"}, "spec": {"service": "payments", "action": "allow", "rules": [
		{"to": [{"grpc": ["grpc.testing.TestService/*"]}], "when": [{"key": "request.jwt.sub", "values": ["alice"]}]}]}}]`

// A call is allowed for whom its token names, as long as the token holds, streams that are open included.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, tokenRules)
		serve(t, net.JoinConfig(t, mesh.Config{Service: "payments", Tokens: tokens{time.Now().Add(time.Minute)}}), &greeter{})
		c := client(t, net.Join(t, "orders"), "payments")

		_, err := greet(t.Context(), c)
		wantDenied(t, err, "grpc")
		_, err = greet(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer bob"), c)
		wantDenied(t, err, "grpc")
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "bearer alice")
		if _, err := greet(ctx, c); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		s, err := c.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ping(t, s)
		_, err = s.Recv()
		wantDenied(t, err, "grpc")
		if d, ok := errors.AsType[*mesh.DeniedError](err); !ok || !strings.Contains(d.Reason, "the token has expired") {
			t.Error(err)
		}
		if d := time.Since(began); d < 59*time.Second || d > 61*time.Second {
			t.Errorf("it ended after %v", d)
		}
	})
}
