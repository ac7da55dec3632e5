package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/internal/wire"
)

// The key of a running pool is changed: nobody is lost meanwhile, and who was away finds back.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	p := serve(t, dir)
	p.join(t, "orders", "")
	p.join(t, "payments", "")
	state := t.TempDir()
	away := p.join(t, "shop", state)
	everybody := func(n int) {
		t.Helper()
		eventually(t, "all in the pool", func(ctx context.Context) error {
			members, err := p.admin.Members(ctx)
			alive := 0
			for _, m := range members {
				if m.State == "alive" {
					alive++
				}
			}
			if err == nil && alive != n {
				err = fmt.Errorf("%d alive of %+v", alive, members)
			}
			return err
		})
	}
	everybody(4)
	if err := away.Close(); err != nil {
		t.Fatal(err)
	}
	everybody(3)
	all, err := p.admin.Keys(t.Context())
	if err != nil || len(all) != 1 || !all[0].Encrypts {
		t.Fatalf("%+v, %v", all, err)
	}
	old := all[0].ID
	refused := func(err error, status int) {
		t.Helper()
		if e, ok := errors.AsType[*admin.Error](err); !ok || e.Status != status {
			t.Errorf("got %v, want a refusal with %d", err, status)
		}
	}
	refused(p.admin.RemoveKey(t.Context(), old, true), 409)
	refused(p.admin.UseKey(t.Context(), "deadbeef", true), 404)

	k, err := p.admin.InstallKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key := func(what string, is func(k admin.Key) bool) {
		t.Helper()
		eventually(t, what, func(ctx context.Context) error {
			all, err := p.admin.Keys(ctx)
			for _, one := range all {
				if one.ID == k.ID && is(one) {
					return nil
				}
			}
			return errors.Join(err, fmt.Errorf("%+v", all))
		})
	}
	key("all have it", func(k admin.Key) bool { return k.Members == 2 && len(k.Missing) == 0 })
	if err := p.admin.UseKey(t.Context(), k.ID, false); err != nil {
		t.Fatal(err)
	}
	key("all use it", func(k admin.Key) bool { return k.Encrypts && k.Encrypting == 2 })
	if err := p.admin.RemoveKey(t.Context(), old, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old one is gone", func(ctx context.Context) error {
		all, err := p.admin.Keys(ctx)
		if err == nil && (len(all) != 1 || all[0].Encrypting != 2) {
			err = fmt.Errorf("%+v", all)
		}
		return err
	})
	everybody(3)
	p.join(t, "shop", state) // it remembers the old key
	everybody(4)
	saved, err := os.ReadFile(filepath.Join(state, "gossip", "join.json"))
	if err != nil {
		t.Fatal(err)
	}
	var j wire.Join
	if err := json.Unmarshal(saved, &j); err != nil || len(j.GossipKeys) != 1 || gossip.KeyID(j.GossipKeys[0]) != k.ID {
		t.Errorf("the member remembers %d keys, %v", len(j.GossipKeys), err)
	}
	// The store has it, not the file that mesh init wrote.
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p = serve(t, dir)
	if all, err = p.admin.Keys(t.Context()); err != nil || len(all) != 1 || all[0].ID != k.ID {
		t.Errorf("after a restart: %+v, %v", all, err)
	}
	everybody(4)
}

// Who slept through a change of the keys, and finds the control plane gone, finds the pool by what a peer tells; it keeps nothing of
// that, and has the control plane's word as soon as it is back.
func TestRestartWithOldKeysAndNoControlPlane(t *testing.T) {
	t.Parallel()
	dir := keepPorts(t, newDir(t))
	p := serve(t, dir)
	ledger := p.join(t, "ledger", "")
	peer := echo(t, ledger).String()
	id, b := p.bootstrap(t, "payments")
	b.Peers = []string{peer}
	state := filepath.Join(t.TempDir(), "payments")
	if err := joinWith(t, mesh.Config{Identity: id, Bootstrap: b, StateDir: state}).Close(); err != nil {
		t.Fatal(err)
	}
	all, err := p.admin.Keys(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	k, err := p.admin.InstallKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.admin.UseKey(t.Context(), k.ID, true), p.admin.RemoveKey(t.Context(), all[0].ID, true)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other member has the new key", func(ctx context.Context) error {
		all, err := p.admin.Keys(ctx)
		if err == nil && (len(all) != 1 || all[0].Encrypting != 1) {
			err = fmt.Errorf("%+v", all)
		}
		return err
	})
	p.stop()
	m := joinWith(t, mesh.Config{Identity: id, Bootstrap: b, StateDir: state})
	finds := func(what string) {
		t.Helper()
		within(t, time.Minute, what, func(context.Context) error {
			if eps := m.Discovery().Lookup("ledger").Endpoints; len(eps) != 1 || eps[0].Suspect {
				return fmt.Errorf("it sees %+v", eps)
			}
			return nil
		})
	}
	finds("it finds the pool by what a peer tells")
	kept := func() string {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(state, "gossip", "join.json"))
		var j wire.Join
		if err == nil {
			err = json.Unmarshal(raw, &j)
		}
		if err != nil || len(j.GossipKeys) != 1 {
			t.Fatalf("%d keys are kept, %v", len(j.GossipKeys), err)
		}
		return gossip.KeyID(j.GossipKeys[0])
	}
	if got := kept(); got != all[0].ID {
		t.Errorf("it keeps %s, want what the control plane said, %s", got, all[0].ID)
	}
	serve(t, dir)
	within(t, time.Minute, "it has the control plane's word", func(context.Context) error {
		if got := kept(); got != k.ID {
			return errors.New("it keeps " + got)
		}
		return nil
	})
	finds("it still sees the others")
}
