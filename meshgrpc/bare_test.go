package meshgrpc_test

import (
	"testing"

	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An operator who does not want denials explained has callers told the code alone.
func TestBareDenial(t *testing.T) {
	const bare = `{"apiVersion": "mesh/v1", "kind": "Default", "metadata": {"name": "bare"}, "spec": {"service": "*", "denials": "bare"}}`
	for name, rules := range map[string][]string{
		"the connection": {bare},
		"the call":       {bare, allowMethods(t, service+"/EmptyCall")},
	} {
		t.Run(name, func(t *testing.T) {
			net := meshtest.New(t, rules...)
			serve(t, net.Join(t, "payments"), &greeter{})
			_, err := greet(t.Context(), client(t, net.Join(t, "orders"), "payments"))
			s := status.Convert(err)
			if s.Code() != codes.PermissionDenied || len(s.Details()) > 0 || s.Message() != "mesh: spiffe://test.mesh/orders to payments: denied" {
				t.Errorf("got %v with %d details", err, len(s.Details()))
			}
		})
	}
}
