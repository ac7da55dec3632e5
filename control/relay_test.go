package control_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const shopMayCallPayments = `
apiVersion: mesh/v1
kind: Authorization
metadata: {name: payments-callers}
spec:
  service: payments
  action: allow
  rules: [{from: [{services: [shop]}]}]
`

// bootstrap enrols a service, and returns its identity and how to join with it.
func (p *plane) bootstrap(t *testing.T, service string) (identity.Source, *mesh.Bootstrap) {
	t.Helper()
	b, err := p.admin.Token(t.Context(), service, 0)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := identity.NewStepCA(t.Context(), identity.StepCAConfig{
		URL: b.CA, RootFingerprint: b.RootFingerprint, Token: b.Token, ID: spiffeid.RequireFromString("spiffe://" + b.TrustDomain + "/" + service),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ca.Close() })
	b.Token = ""
	return ca, b
}

func joinWith(t *testing.T, cfg mesh.Config) *mesh.Mesh {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	m, err := mesh.Join(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// pingAt is ping, of payments at one address.
func pingAt(ctx context.Context, m *mesh.Mesh, addr netip.AddrPort) error {
	c, err := m.DialEndpoint(ctx, "payments", addr)
	if err != nil {
		return err
	}
	return pingOn(ctx, c)
}

func allowed(t *testing.T, m *mesh.Mesh) {
	t.Helper()
	eventually(t, m.ID().String()+" is allowed", func(ctx context.Context) error { return ping(ctx, m) })
}

func denied(t *testing.T, m *mesh.Mesh, version uint64) {
	t.Helper()
	eventually(t, m.ID().String()+" is denied", func(ctx context.Context) error {
		var d *mesh.DeniedError
		if err := ping(ctx, m); !errors.As(err, &d) || d.Version != version {
			return fmt.Errorf("want a denial by v%d: %w", version, errors.Join(err, errors.New("there")))
		}
		return nil
	})
}

// TestPeersKeepTheMeshGoing: the control plane goes after a change that one member was away for. It gets it from its peers;
// so does a newcomer that knows nothing but its identity and one member, which moreover is found by the others.
func TestPeersKeepTheMeshGoing(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	state := t.TempDir()
	first := p.join(t, "ledger", "") // when it joined, there was nobody but the control plane
	ledger := echo(t, first).String()
	b, err := p.admin.Token(t.Context(), "payments", 0)
	if err != nil {
		t.Fatal(err)
	}
	payments := join(t, b, "payments", filepath.Join(state, "payments"))
	orders, shop := p.join(t, "orders", ""), p.join(t, "shop", "")
	p.apply(t, ordersMayCallPayments)
	echo(t, payments)
	allowed(t, orders)
	if err := payments.Close(); err != nil {
		t.Fatal(err)
	}
	version := p.apply(t, shopMayCallPayments)
	eventually(t, "ledger has the change", func(ctx context.Context) error {
		members, err := p.admin.Members(ctx)
		for _, m := range members {
			if m.Service == "ledger" && m.Rules == version {
				return nil
			}
		}
		return errors.Join(errors.New("not yet"), err)
	})
	id, nb := p.bootstrap(t, "billing")
	p.stop()

	payments = join(t, b, "payments", filepath.Join(state, "payments"))
	echo(t, payments)
	denied(t, orders, version)
	allowed(t, shop)

	nb.Peers = []string{ledger}
	billing := joinWith(t, mesh.Config{Identity: id, Bootstrap: nb, StateDir: filepath.Join(state, "billing")})
	denied(t, billing, version)
	echo(t, billing)
	eventually(t, "the newcomer is found, and enforces the rules", func(ctx context.Context) error {
		c, err := shop.Dial(ctx, "tcp", "billing")
		if err != nil {
			return err
		}
		defer c.Close()
		var d *mesh.DeniedError
		if _, err := c.Read(make([]byte, 1)); !errors.As(err, &d) || d.Version != version {
			return fmt.Errorf("not denied: %w", err)
		}
		return nil
	})
	if err := billing.Close(); err != nil {
		t.Fatal(err)
	}
	nb.Peers = nil
	denied(t, joinWith(t, mesh.Config{Identity: id, Bootstrap: nb, StateDir: filepath.Join(state, "billing")}), version)
}

// TestPeersThatLie: rules that a peer made up, changed or kept for too long are not taken, those in force stay, and the
// next good ones are.
func TestPeersThatLie(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	orders, shop := p.join(t, "orders", ""), p.join(t, "shop", "")
	id, b := p.bootstrap(t, "payments")
	mallory, _ := p.bootstrap(t, "mallory")
	bundle := func() []byte {
		status, body := ask(t, orders, wire.PathBundle)
		if status != http.StatusOK {
			t.Fatal(status)
		}
		return body
	}
	empty := bundle()
	version := p.apply(t, ordersMayCallPayments)
	state := filepath.Join(t.TempDir(), "payments")
	if err := joinWith(t, mesh.Config{Identity: id, Bootstrap: b, StateDir: state}).Close(); err != nil {
		t.Fatal(err)
	}
	current := bundle()
	p.apply(t, shopMayCallPayments)
	next := bundle()
	_, stolen, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := policy.Sign(&policy.Bundle{TrustDomain: spiffeid.RequireTrustDomainFromString("example.test"), Version: 99}, stolen)
	if err != nil {
		t.Fatal(err)
	}
	p.stop()

	for name, lie := range map[string][]byte{
		"tampered":           bytes.Replace(next, []byte(`"shop"`), []byte(`"evil"`), 1),
		"signed by somebody": forged,
		"older":              empty,
		"the same":           current,
		"garbage":            []byte("<html>"),
		"nothing":            {},
		"too large":          make([]byte, wire.MaxBundleBytes+1),
	} {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t, mallory, map[string][]byte{wire.PathBundle: lie})
			mine := filepath.Join(t.TempDir(), "payments")
			if err := os.CopyFS(mine, os.DirFS(state)); err != nil {
				t.Fatal(err)
			}
			b := *b
			b.Peers = []string{l.addr}
			payments := joinWith(t, mesh.Config{Identity: id, Bootstrap: &b, StateDir: mine})
			at := echo(t, payments)
			for range 2 { // when it asks again it is done with the first answer
				<-l.asked
			}
			if err := pingAt(t.Context(), orders, at); err != nil {
				t.Errorf("the rules in force are gone: %v", err)
			}
			if d, ok := errors.AsType[*mesh.DeniedError](pingAt(t.Context(), shop, at)); !ok || d.Version != version {
				t.Errorf("want a denial by v%d, got %v", version, d)
			}
			l.say(wire.PathBundle, next)
			eventually(t, "the next rules are in force", func(ctx context.Context) error { return pingAt(ctx, shop, at) })
		})
	}
}

// TestPeersThatLieAboutGossip: what a peer says about gossip can't replace what the control plane said, and nonsense is no
// reason to fail as long as somebody knows better.
func TestPeersThatLieAboutGossip(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	ledger := p.join(t, "ledger", "")
	honest := echo(t, ledger).String()
	id, b := p.bootstrap(t, "payments")
	mallory, _ := p.bootstrap(t, "mallory")
	state := filepath.Join(t.TempDir(), "payments")
	if err := joinWith(t, mesh.Config{Identity: id, Bootstrap: b, StateDir: state}).Close(); err != nil {
		t.Fatal(err)
	}
	p.stop()
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for name, lie := range map[string]string{
		"garbage":       "<html>",
		"no keys":       `{"gossip_keys": [], "seeds": []}`,
		"a short key":   `{"gossip_keys": ["AAAA"], "seeds": []}`,
		"a bad seed":    `{"gossip_keys": ["` + key + `"], "seeds": ["nowhere"]}`,
		"too many keys": `{"gossip_keys": [` + strings.Repeat(`"`+key+`",`, 99) + `"` + key + `"], "seeds": []}`,
	} {
		t.Run(name, func(t *testing.T) {
			l := newLiar(t, mallory, map[string][]byte{wire.PathJoin: []byte(lie)})
			b := *b
			b.Peers = []string{l.addr}
			if m, err := mesh.Join(t.Context(), mesh.Config{Identity: id, Bootstrap: &b}); err == nil {
				t.Error("joined nobody", m.Close())
			}
			b.Peers = []string{l.addr, honest}
			m := joinWith(t, mesh.Config{Identity: id, Bootstrap: &b})
			eventually(t, "finds the others", func(context.Context) error {
				if len(m.Discovery().Lookup("ledger").Endpoints) == 0 {
					return errors.New("not yet")
				}
				return nil
			})
		})
	}
	t.Run("keys of its own", func(t *testing.T) {
		l := newLiar(t, mallory, map[string][]byte{wire.PathJoin: []byte(`{"gossip_keys": ["` + key + `"], "seeds": ["127.0.0.1:1"]}`)})
		b := *b
		b.Peers = []string{l.addr}
		joinWith(t, mesh.Config{Identity: id, Bootstrap: &b, StateDir: state})
		var kept wire.Join
		raw, err := os.ReadFile(filepath.Join(state, "gossip", "join.json"))
		if err == nil {
			err = json.Unmarshal(raw, &kept)
		}
		if err != nil || len(kept.GossipKeys) != 1 || bytes.Equal(kept.GossipKeys[0], make([]byte, 32)) {
			t.Errorf("kept %d keys, the liar's among them? %v", len(kept.GossipKeys), err)
		}
		if !slices.Contains(kept.Seeds, "127.0.0.1:1") {
			t.Errorf("the liar was not heard: seeds %v", kept.Seeds)
		}
	})
}

// TestPeersTellMembersOnly: what a member tells its peers, it tells nobody else, however well verified.
func TestPeersTellMembersOnly(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	id, b := p.bootstrap(t, "payments")
	member, _ := p.bootstrap(t, "orders")
	svid, err := id.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := id.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	friends, impostors := newCA(t, "friend.example"), newCA(t, "example.test")
	payments := joinWith(t, mesh.Config{Identity: identity.Static(svid, bundle, friends.Bundle()), Bootstrap: b})
	at := echo(t, payments).String()
	tell := func(id identity.Source, path string) string {
		t.Helper()
		d := tls.Dialer{Config: peerTLS(t, id)}
		c, err := d.DialContext(t.Context(), "tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: mesh\r\n\r\n") // it may be closed already
		got, _ := io.ReadAll(c)                                                 // an alert is an error
		return string(got)
	}
	for _, path := range []string{wire.PathJoin, wire.PathBundle + "?after=0"} {
		if got := tell(member, path); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
			t.Errorf("%s: a member is told %q", path, got)
		}
		for who, ca := range map[string]*testca.CA{"a friend": friends, "an impostor": impostors} {
			id, err := ca.Source("orders")
			if err != nil {
				t.Fatal(err)
			}
			if got := tell(id, path); got != "" {
				t.Errorf("%s: %s is told %q", path, who, got)
			}
		}
	}
	for _, path := range []string{"/", wire.PathBundle, wire.PathBundle + "?after=-1", "/v1/../v1/join"} {
		if got := tell(member, path); !strings.HasPrefix(got, "HTTP/1.1 40") {
			t.Errorf("%s: a member is told %q", path, got)
		}
	}
}

func newCA(t *testing.T, trustDomain string) *testca.CA {
	t.Helper()
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString(trustDomain))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}
