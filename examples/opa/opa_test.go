package main

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const rules = `{"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "charge"},
	"spec": {"service": "payments", "action": "allow", "rules": [
		{"from": [{"services": ["orders", "trial", "shop"]}], "to": [{"paths": ["/charge/*"]}]}]}}`

// TestBothDecide: a request needs the rules' consent and that of charge.rego.
func TestBothDecide(t *testing.T) {
	net := meshtest.New(t, rules)
	ask, err := newOPA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	payments := net.JoinConfig(t, mesh.Config{Service: "payments", Also: ask})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	ln, err := payments.Listen(ctx, "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { served <- serve(ctx, payments, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	for _, x := range []struct{ caller, method, path, want string }{
		{"orders", http.MethodPost, "/charge/1299", "charged 1299 cents for orders\n"},
		{"trial", http.MethodPost, "/charge/99", "charged 99 cents for trial\n"},
		{"trial", http.MethodPost, "/charge/1299", "opa"},
		{"shop", http.MethodPost, "/charge/1", "opa"}, // the rules let it in, charge.rego does not know it
		{"orders", http.MethodGet, "/charge/1299", "opa"},
		{"orders", http.MethodPost, "/charge/-1", "opa"},
		{"orders", http.MethodPost, "/charge/NaN", "opa"},
		{"orders", http.MethodPost, "/charge/1/2", "opa"},
		{"orders", http.MethodPost, "/admin", ""},
		{"stranger", http.MethodPost, "/charge/1", ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), x.method, "http://payments"+x.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := net.Join(t, x.caller).HTTPClient().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		got := string(body)
		if d, denied := mesh.DeniedFromResponse(resp); denied {
			got = d.Policy
		}
		if got != x.want {
			t.Errorf("%s %s %s: %q, want %q", x.caller, x.method, x.path, got, x.want)
		}
	}
}
