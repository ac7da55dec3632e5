package control_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/discovery/gossip"
)

// In a pool that is large, who only dials observes it, without its keys, and is a member from when it listens. It calls services that it
// never looked up all the same, at once.
func TestObserver(t *testing.T) {
	t.Parallel()
	p := serve(t, initDir(t, control.Settings{TrustDomain: "example.test", Listen: anyPort, ObserveBeyond: 1, ProbeInterval: time.Second}))
	payments := p.join(t, "payments", "")
	if payments.Stats().Observes {
		t.Error("it observes, in a pool of one")
	}
	echo(t, payments)
	p.apply(t, ordersMayCallPayments)
	if p.join(t, "ledger", "").Stats().Observes {
		t.Error("it observes, and did not say that it may")
	}
	state := t.TempDir()
	b, err := p.admin.Token(t.Context(), "orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	orders := joinWith(t, mesh.Config{Service: "orders", Bootstrap: b, StateDir: state, Observe: gossip.Observe})
	if !orders.Stats().Observes {
		t.Fatal("it is a member of a pool of three, and one is enough")
	}
	if err := ping(t.Context(), orders); err != nil {
		t.Error(err)
	}
	w := httptest.NewRecorder()
	orders.HealthHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	if !strings.Contains(w.Body.String(), "observes a pool of 3") {
		t.Errorf("health: %s", w.Body)
	}
	keys := func() bool {
		b, err := os.ReadFile(filepath.Join(state, "gossip", "join.json"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(`"probe_interval":1000000000`)) {
			t.Errorf("how often to probe was not told: %s", b)
		}
		return bytes.Contains(b, []byte("gossip_keys"))
	}
	if keys() {
		t.Error("an observer has the pool's keys")
	}
	is := func(want string) func(context.Context) error {
		return func(ctx context.Context) error {
			members, err := p.admin.Members(ctx)
			for _, m := range members {
				if m.Service == "orders" && m.State == want {
					return nil
				}
			}
			return errors.Join(errors.New("orders is not listed as "+want), err)
		}
	}
	eventually(t, "it is listed", is("observer"))
	echo(t, orders)
	if orders.Stats().Observes || !keys() {
		t.Error("it listens, and is no member")
	}
	eventually(t, "it is listed", is("alive"))
	eventually(t, "it calls", func(ctx context.Context) error { return ping(ctx, orders) })
}
