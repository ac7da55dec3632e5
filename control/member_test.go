package control_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ask calls the control plane over the mesh; it may be called from any goroutine.
func ask(t *testing.T, m *mesh.Mesh, query string) (int, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://mesh.control"+query, http.NoBody)
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	resp, err := m.HTTPClient().Do(req)
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, body
}

func TestJoinAnswer(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	orders := p.join(t, "orders", "")
	p.join(t, "shop", "")
	eventually(t, "all in the pool", func(ctx context.Context) error {
		members, err := p.admin.Members(ctx)
		if err == nil && len(members) != 3 {
			err = errors.New("not yet")
		}
		return err
	})
	status, body := ask(t, orders, wire.PathJoin)
	var j wire.Join
	if err := json.Unmarshal(body, &j); err != nil || status != http.StatusOK {
		t.Fatalf("%d, %v", status, err)
	}
	if len(j.GossipKeys) != 1 || len(j.GossipKeys[0]) != 32 || len(j.Seeds) != 3 || j.Seeds[0] != p.Addresses().Gossip {
		t.Errorf("%d keys, seeds %v", len(j.GossipKeys), j.Seeds)
	}
}

func TestBundlePoll(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	b, err := p.admin.Token(t.Context(), "orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	orders := join(t, b, "orders", "")
	open := func(status int, body []byte) *policy.Bundle {
		t.Helper()
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		got, err := policy.Open(body, []ed25519.PublicKey{b.BundleKeys[0]}, spiffeid.RequireTrustDomainFromString("example.test"))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := open(ask(t, orders, "/v1/bundle")); got.Version != 1 || len(got.Documents) != 0 {
		t.Errorf("first bundle: %+v", got)
	}
	if status, _ := ask(t, orders, "/v1/bundle?after=1"); status != http.StatusNoContent {
		t.Errorf("nothing new: %d", status)
	}
	if status, _ := ask(t, orders, "/v1/bundle?after=1&wait=10ms"); status != http.StatusNoContent {
		t.Errorf("nothing new after 10ms: %d", status)
	}
	for _, q := range []string{"after=x", "after=-1", "wait=soon", "refused=x"} {
		if status, _ := ask(t, orders, "/v1/bundle?"+q); status != http.StatusBadRequest {
			t.Errorf("%s: %d", q, status)
		}
	}
	// One that waits gets the change; so does the member itself, which holds such a poll.
	var wg sync.WaitGroup
	var status int
	var body []byte
	wg.Go(func() { status, body = ask(t, orders, "/v1/bundle?after=1&wait=20s&instance=waiting") })
	eventually(t, "the poll is held", func(ctx context.Context) error {
		_, err := member(ctx, p, "waiting")
		return err
	})
	p.apply(t, ordersMayCallPayments)
	wg.Wait()
	if got := open(status, body); got.Version != 2 || len(got.Documents) != 1 {
		t.Errorf("next bundle: %+v", got)
	}
}

func member(ctx context.Context, p *plane, instance string) (admin.Member, error) {
	members, err := p.admin.Members(ctx)
	for _, m := range members {
		if m.Instance == instance {
			return m, nil
		}
	}
	return admin.Member{}, errors.Join(errors.New("no such member"), err)
}

// TestRefusalIsVisible: which member did not take which version, and why. A member can't speak
// for another service.
func TestRefusalIsVisible(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	orders := p.join(t, "orders", "")
	if status, _ := ask(t, orders, "/v1/bundle?after=1&instance=x1&refused=2&reason=cannot+evaluate+it%1b%5b31m"); status != http.StatusNoContent {
		t.Fatal(status)
	}
	m, err := member(t.Context(), p, "x1")
	if err != nil || m.Service != "orders" || m.State != "unseen" || m.Rules != 1 || m.Refused == nil || *m.Refused != (admin.Refusal{Version: 2, Reason: "cannot evaluate it�[31m"}) {
		t.Errorf("%+v, %v", m, err)
	}
	members, err := p.admin.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if m.Service == wire.ControlService {
			ask(t, orders, "/v1/bundle?instance="+m.Instance)
		}
	}
	members, err = p.admin.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range members {
		if m.Service == wire.ControlService && m.State == "alive" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("somebody passed for the control plane: %+v", members)
	}
}
