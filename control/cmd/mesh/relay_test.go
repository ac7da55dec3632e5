package main_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"

	member "github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/internal/testserve"
	"github.com/intramesh/mesh/policy"
)

// TestPeersAfterSuddenDeath: the control plane is killed, or does not answer any more, right after a change that one member
// was away for. That member comes back with the old rules on its disk, and gets the new ones from its peers.
func TestPeersAfterSuddenDeath(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"killed": syscall.SIGKILL, "frozen": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := serve(t, newPlane(t))
			c := p.client(t)
			state := t.TempDir()
			b := token(t, c, "payments")
			payments := joinAs(t, member.Config{Bootstrap: b, StateDir: state})
			callers := map[string]*member.Mesh{}
			for _, s := range []string{"orders", "shop"} {
				callers[s] = joinAs(t, member.Config{Bootstrap: token(t, c, s)})
				echo(t, callers[s]) // who does not listen can't be asked
			}
			allow := func(caller string) uint64 {
				r, err := c.Apply(t.Context(), []policy.Document{{
					APIVersion: policy.APIVersion, Kind: policy.Kind, Metadata: policy.Metadata{Name: "callers"},
					Spec: policy.Spec{Service: "payments", Action: policy.ActionAllow, Rules: []policy.Rule{
						{From: []policy.Source{{Services: []string{caller}}}},
					}},
				}}, admin.ApplyOptions{})
				if err != nil {
					t.Fatal(err)
				}
				return r.Version
			}
			allow("orders")
			at := echo(t, payments)
			within(t, "orders is allowed", func(ctx context.Context) error { return ping(ctx, callers["orders"], at) })
			if err := payments.Close(); err != nil {
				t.Fatal(err)
			}
			version := allow("shop")
			within(t, "one of them has the change", func(ctx context.Context) error {
				members, err := c.Members(ctx)
				for _, m := range members {
					if m.Service == "shop" && m.Rules == version {
						return nil
					}
				}
				return errors.Join(errors.New("not yet"), err)
			})
			if err := p.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			payments = joinAs(t, member.Config{Bootstrap: b, StateDir: state})
			at = echo(t, payments)
			within(t, "shop is allowed", func(ctx context.Context) error { return ping(ctx, callers["shop"], at) })
			if d, ok := errors.AsType[*member.DeniedError](ping(t.Context(), callers["orders"], at)); !ok || d.Version != version {
				t.Errorf("want a denial by v%d, got %v", version, d)
			}
		})
	}
}

func token(t *testing.T, c *admin.Client, service string) *member.Bootstrap {
	t.Helper()
	b, err := c.Token(t.Context(), service, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func joinAs(t *testing.T, cfg member.Config) *member.Mesh {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	m, err := member.Join(ctx, cfg)
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

// echo serves the default port of m until the test ends.
func echo(t *testing.T, m *member.Mesh) netip.AddrPort {
	t.Helper()
	ln, err := m.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wait := testserve.Each(ln, testserve.Echo)
	t.Cleanup(func() {
		_ = m.Close() // ends what is open
		wait()
	})
	return netip.MustParseAddrPort(ln.Addr().String())
}

// ping sends a line to payments at an address and reads it back.
func ping(ctx context.Context, m *member.Mesh, addr netip.AddrPort) error {
	c, err := m.DialEndpoint(ctx, "payments", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 4))
	return err
}

// within tries until it works.
func within(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 45*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}
