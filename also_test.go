package mesh_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/policy"
)

// TestAlso: what the rules allow is asked for once more, connection and request; what they deny is not, and a change of
// the rules still reaches open connections.
func TestAlso(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments", path: "/charge"})
	var mu sync.Mutex
	var asked []string
	payments := w.join("payments", func(c *mesh.Config) {
		c.Also = func(_ context.Context, r *policy.Request) policy.Decision {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, fmt.Sprint(r.Layer, " ", r.Source.Path(), " ", r.Path))
			if r.Layer == policy.LayerHTTP && r.Header.Get("X-Cents") != "1299" {
				return policy.Decision{Reason: "too much"}
			}
			return policy.Decision{Verdict: policy.Allow}
		}
	})
	w.serveHTTP(payments, func(http.ResponseWriter, *http.Request) {})
	orders := w.join("orders").HTTPClient()
	charge := func(path, cents string) (*mesh.DeniedError, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://payments"+path, http.NoBody)
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-Cents", cents)
		resp, err := orders.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		d, _ := mesh.DeniedFromResponse(resp)
		return d, nil
	}
	if d, err := charge("/charge", "1299"); d != nil || err != nil {
		t.Errorf("both allow: %v, %v", d, err)
	}
	if d, err := charge("/charge", "1300"); err != nil || d == nil || d.Policy != "application" || d.Rule != -1 || d.Version != 1 || d.Reason != "too much" {
		t.Errorf("Also denies: %+v, %v", d, err)
	}
	if d, err := charge("/other", "1299"); err != nil || d == nil || d.Policy == "application" {
		t.Errorf("the rules deny: %+v, %v", d, err)
	}
	w.rules.set()
	if d, err := charge("/charge", "1299"); err != nil || d == nil || d.Version != 2 {
		t.Errorf("the rules allow no more: %+v, %v", d, err)
	}
	mu.Lock()
	defer mu.Unlock()
	// The open connection may be decided again at any time.
	asked = slices.Compact(asked)
	if want := []string{"connection /orders ", "http /orders /charge"}; !slices.Equal(asked, want) {
		t.Errorf("asked about %q, want %q", asked, want)
	}
}

// TestAlsoOpensNothing: without rules there is nothing to add to.
func TestAlsoOpensNothing(t *testing.T) {
	w := newWorld(t)
	payments := w.join("payments", func(c *mesh.Config) {
		c.Policy = nil
		c.Also = func(context.Context, *policy.Request) policy.Decision { return policy.Decision{Verdict: policy.Allow} }
	})
	w.serveHTTP(payments, func(http.ResponseWriter, *http.Request) {})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://payments/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.join("orders").HTTPClient().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, denied := mesh.DeniedFromResponse(resp); !denied {
		t.Errorf("answered with %s", resp.Status)
	}
}
