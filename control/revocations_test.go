package control_test

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/policy"
)

// isRevoked reports whether an error of a dial or of an open connection says so.
func isRevoked(err error) bool {
	_, ok := errors.AsType[*policy.RevokedError](err)
	denied, isDenied := errors.AsType[*mesh.DeniedError](err)
	return ok || isDenied && strings.Contains(denied.Reason, "revoked")
}

// TestRevokeService: open connections are cut, new ones refused, renewal and, if so wanted, enrolment too; all of it after
// a restart, until it is taken back.
func TestRevokeService(t *testing.T) {
	t.Parallel()
	dir := keepPorts(t, newDir(t))
	p := serve(t, dir)
	p.apply(t, ordersMayCallPayments)
	echo(t, p.join(t, "payments", ""))
	orders := p.join(t, "orders", "")
	eventually(t, "a first ping", func(ctx context.Context) error { return ping(ctx, orders) })
	held, err := orders.Dial(t.Context(), "tcp", "payments")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	r, err := p.admin.Revoke(t.Context(), admin.Revoke{Target: "orders", Reason: "a drill"})
	if err != nil || len(r.Revocations) != 1 || r.Revocations[0].Name != "service orders" {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := held.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(held, make([]byte, 1)); !isRevoked(err) {
		t.Errorf("an open connection: %v", err)
	}
	if err := ping(t.Context(), orders); err == nil {
		t.Error("a new connection was let in")
	}

	// With a new certificate orders is back, until nobody can be orders at all.
	eventually(t, "after enrolling anew", func(ctx context.Context) error {
		b, err := p.admin.Token(ctx, "orders", 0)
		if err != nil {
			return err
		}
		again, err := mesh.Join(ctx, mesh.Config{Bootstrap: b})
		if err != nil {
			return err
		}
		defer again.Close()
		return ping(ctx, again)
	})
	if _, err := p.admin.Revoke(t.Context(), admin.Revoke{Service: "orders", Block: true}); err != nil {
		t.Fatal(err)
	}
	p.stop()
	p = serve(t, dir)
	list, err := p.admin.Revocations(t.Context())
	if err != nil || len(list) != 1 || !list[0].Block || list[0].Name != "service orders" {
		t.Errorf("after a restart: %+v, %v", list, err)
	}
	b, err := p.admin.Token(t.Context(), "orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mesh.Join(t.Context(), mesh.Config{Bootstrap: b}); err == nil || !strings.Contains(err.Error(), "service orders was revoked") {
		t.Errorf("enrolling as a service that nobody can be: %v", err)
	}
	if _, err := p.admin.Unrevoke(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	back := p.join(t, "orders", "")
	eventually(t, "after it was taken back", func(ctx context.Context) error { return ping(ctx, back) })
	eventually(t, "with the certificate from before", func(ctx context.Context) error { return ping(ctx, orders) })
}

// TestRevokeInstance: of two members of a service, the one is out and the other is not.
func TestRevokeInstance(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	p.apply(t, ordersMayCallPayments)
	echo(t, p.join(t, "payments", ""))
	state := filepath.Join(t.TempDir(), "one")
	one, two := p.join(t, "orders", state), p.join(t, "orders", "")
	instance := ""
	eventually(t, "both are known", func(ctx context.Context) error {
		members, err := p.admin.Members(ctx)
		n := 0
		for _, m := range members {
			if m.Service == "orders" && m.Serial != "" {
				n++
				if m.Instance == one.Discovery().(*gossip.Participant).Instance() {
					instance = m.Instance
				}
			}
		}
		if err == nil && n != 2 {
			err = errors.New("not yet")
		}
		return err
	})
	r, err := p.admin.Revoke(t.Context(), admin.Revoke{Target: instance})
	if err != nil || len(r.Revocations) != 1 || r.Revocations[0].Name != "instance "+instance || r.Revocations[0].Serial == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	eventually(t, "the one is out", func(ctx context.Context) error {
		if ping(ctx, one) == nil {
			return errors.New("it is not")
		}
		return nil
	})
	if err := ping(t.Context(), two); err != nil {
		t.Errorf("the other one: %v", err)
	}
	for name, q := range map[string]admin.Revoke{
		"nothing":              {},
		"two things":           {Service: "a", Instance: "b"},
		"a control plane":      {Service: "mesh/control"},
		"nobody":               {Instance: "nobody"},
		"a bad name":           {Target: "No Service"},
		"a bad serial":         {Serial: "xyz"},
		"to block an instance": {Instance: instance, Block: true},
	} {
		e, ok := errors.AsType[*admin.Error](func() error { _, err := p.admin.Revoke(t.Context(), q); return err }())
		if !ok || e.Status != 400 {
			t.Errorf("%s: %v", name, e)
		}
	}
	if _, err := p.admin.Unrevoke(t.Context(), "service nobody"); err == nil {
		t.Error("taken back what was not revoked")
	}
}
