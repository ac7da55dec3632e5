package meshtest_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
)

// TestExample is how a service is tested: the handler runs behind a real listener, and is
// called by a real client, with the rules that production would have.
func TestExample(t *testing.T) {
	net := meshtest.New(t, `{
		"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "charge"},
		"spec": {"service": "payments", "action": "allow", "rules": [
			{"from": [{"services": ["orders"]}], "to": [{"methods": ["POST"], "paths": ["/charge"]}]}]}}`)

	payments := net.Join(t, "payments")
	ln, err := payments.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/charge", func(w http.ResponseWriter, r *http.Request) {
		peer, _ := mesh.PeerFromContext(r.Context())
		fmt.Fprintf(w, "charged by %s", peer.Service())
	})
	srv := &http.Server{Handler: payments.Handler(mux)}
	t.Cleanup(func() { srv.Close() })
	go srv.Serve(ln)

	orders := net.Join(t, "orders").HTTPClient()
	res, err := orders.Post("http://payments/charge", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); string(body) != "charged by orders" {
		t.Errorf("POST /charge: %s: %s", res.Status, body)
	}

	res, err = orders.Get("http://payments/charge")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if denied, ok := mesh.DeniedFromResponse(res); !ok {
		t.Errorf("GET /charge: %s, want a denial", res.Status)
	} else if denied.Layer.String() != "http" {
		t.Errorf("GET /charge: %v", denied)
	}
}
