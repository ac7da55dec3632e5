package meshtest_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"github.com/intramesh/mesh/policy"
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
	srv := &http.Server{Handler: payments.Handler(mux), ReadHeaderTimeout: time.Second}
	t.Cleanup(func() { srv.Close() })
	go func() { _ = srv.Serve(ln) }()

	orders := net.Join(t, "orders").HTTPClient()
	call := func(method string) (body string, denied *mesh.DeniedError) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://payments/charge", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := orders.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		denied, _ = mesh.DeniedFromResponse(res)
		return string(raw), denied
	}
	if body, _ := call("POST"); body != "charged by orders" {
		t.Errorf("POST /charge: %s", body)
	}
	if _, denied := call("GET"); denied == nil || denied.Layer != policy.LayerHTTP {
		t.Errorf("GET /charge: %v, want a denial of the request", denied)
	}
}
