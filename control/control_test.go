package control_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/admin"
)

func TestMembersFollowTheRules(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	payments, orders := p.join(t, "payments", ""), p.join(t, "orders", "")
	echo(t, payments)
	eventually(t, "denied by default", func(ctx context.Context) error {
		var denied *mesh.DeniedError
		if err := ping(ctx, orders); !errors.As(err, &denied) {
			return errors.Join(errors.New("not denied"), err)
		}
		return nil
	})
	version := p.apply(t, ordersMayCallPayments)
	eventually(t, "allowed by a rule", func(ctx context.Context) error { return ping(ctx, orders) })
	eventually(t, "both listed with these rules", func(ctx context.Context) error {
		members, err := p.admin.Members(ctx)
		if err != nil {
			return err
		}
		seen := make(map[string]admin.Member)
		for _, m := range members {
			if m.State == "alive" && m.Rules == version {
				seen[m.Service] = m
			}
		}
		if len(seen) != 3 || len(seen["payments"].Ports) != 1 || len(seen["mesh/control"].Ports) != 1 {
			return errors.New("not all there")
		}
		return nil
	})
	if _, err := p.admin.Delete(t.Context(), []string{"payments-callers"}, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "denied again", func(ctx context.Context) error {
		if ping(ctx, orders) == nil {
			return errors.New("still allowed")
		}
		return nil
	})
}

// TestRestart: a control plane that comes back has its rules, its ports and its members.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir, state := keepPorts(t, newDir(t)), t.TempDir()
	p := serve(t, dir)
	at := p.Addresses()
	b, err := p.admin.Token(t.Context(), "payments", 0)
	if err != nil {
		t.Fatal(err)
	}
	m := join(t, b, "payments", filepath.Join(state, "payments"))
	orders := p.join(t, "orders", "")
	echo(t, m)
	version := p.apply(t, ordersMayCallPayments)
	eventually(t, "allowed", func(ctx context.Context) error { return ping(ctx, orders) })

	p.stop()
	if err := ping(t.Context(), orders); err != nil {
		t.Errorf("without the control plane: %v", err)
	}
	again := serve(t, dir)
	if got := again.Addresses(); got != at {
		t.Errorf("came back at %+v, was at %+v", got, at)
	}
	rules, err := again.admin.Rules(t.Context())
	if err != nil || rules.Version != version || len(rules.Documents) != 1 {
		t.Errorf("came back with %+v, %v", rules, err)
	}
	next := again.apply(t, strings.Replace(ordersMayCallPayments, "orders]", "orders, shop]", 1))
	eventually(t, "the members follow it again", func(ctx context.Context) error {
		members, err := again.admin.Members(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, m := range members {
			if m.State == "alive" && m.Rules == next {
				n++
			}
		}
		if n != 3 {
			return errors.New("not yet")
		}
		return nil
	})
}

// TestNames: trust domains and addresses that are less usual, each with a member.
func TestNames(t *testing.T) {
	t.Parallel()
	six := control.Listen{CA: "[::1]:0", Mesh: "[::1]:0", Gossip: "[::1]:0"}
	for _, s := range []control.Settings{
		{TrustDomain: "prod", Listen: anyPort},
		{TrustDomain: "my_mesh.test", Listen: anyPort},
		{TrustDomain: "example.test", Listen: anyPort, Advertise: "localhost"},
		{TrustDomain: "example.test", Listen: six, Advertise: "::1"},
	} {
		t.Run(s.TrustDomain+" "+s.Advertise, func(t *testing.T) {
			t.Parallel()
			if ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", s.Listen.CA); err != nil {
				t.Skip(err) // no IPv6
			} else if err := ln.Close(); err != nil {
				t.Fatal(err)
			}
			p := serve(t, initDir(t, s))
			m := p.join(t, "a/b_c/d-e", filepath.Join(t.TempDir(), "state"))
			if got, want := m.ID().String(), "spiffe://"+s.TrustDomain+"/a/b_c/d-e"; got != want {
				t.Errorf("joined as %s, want %s", got, want)
			}
		})
	}
}

// TestGone: a member that left is soon not listed any more.
func TestGone(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	orders := p.join(t, "orders", "")
	listed := func(ctx context.Context, want int) error {
		members, err := p.admin.Members(ctx)
		if err == nil && len(members) != want {
			err = fmt.Errorf("listed: %+v", members)
		}
		return err
	}
	eventually(t, "both there", func(ctx context.Context) error { return listed(ctx, 2) })
	if err := orders.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one gone", func(ctx context.Context) error { return listed(ctx, 1) })
}

// TestLastOne: a member that is left alone, its seed gone too, is ready all the same, and its health check says how it is.
func TestLastOne(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	orders := p.join(t, "orders", "")
	health := func() (int, string) {
		w := httptest.NewRecorder()
		orders.HealthHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
		return w.Code, w.Body.String()
	}
	if code, text := health(); code != http.StatusOK || text != "ready\n" {
		t.Errorf("with the control plane: %d %q", code, text)
	}
	p.stop()
	eventually(t, "it notices", func(context.Context) error {
		if code, text := health(); code != http.StatusOK || !strings.HasPrefix(text, "ready\ngossip: no other member reached for ") {
			return fmt.Errorf("%d %q", code, text)
		}
		return nil
	})
}

func TestOneServerPerDirectory(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	serve(t, dir)
	if s, err := control.New(t.Context(), control.Config{Dir: dir}); err == nil {
		t.Error("a second server started", s.Close())
	} else if !strings.Contains(err.Error(), "held by another process") {
		t.Error(err)
	}
}

// TestPortTaken: losing a port of the last run is not fatal when the settings leave it open.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	dir := keepPorts(t, newDir(t))
	p := serve(t, dir)
	at := p.Addresses()
	p.stop()
	ca, err := new(net.ListenConfig).Listen(t.Context(), "tcp", at.CA)
	if err != nil {
		t.Fatal(err)
	}
	defer ca.Close()
	gossip, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", at.Gossip)
	if err != nil {
		t.Fatal(err)
	}
	defer gossip.Close()
	again := serve(t, dir)
	if got := again.Addresses(); got.CA == at.CA || got.Gossip == at.Gossip || got.Mesh != at.Mesh {
		t.Errorf("came back at %+v, was at %+v", got, at)
	}
	again.join(t, "orders", "")
}

// TestCloseWithSilentClient: who holds up a listener leaves no time for a goodbye, which is no error.
func TestCloseWithSilentClient(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	p := serve(t, dir)
	socket, err := admin.SocketPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := new(net.Dialer).DialContext(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := p.admin.Members(t.Context()); err != nil { // the silent one is accepted before
		t.Fatal(err)
	}
	p.stop() // which fails the test if Close does
}
