package control_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/internal/etcdtest"
)

// replicas are n control planes over one etcd.
func replicas(t *testing.T, n int) (all []*plane, cluster *etcdtest.Cluster) {
	t.Helper()
	cluster = etcdtest.Start(t, 1, nil)
	dirs := []string{initDir(t, control.Settings{TrustDomain: "example.test", Listen: anyPort, Store: cluster.URL("mesh")})}
	for i := range n - 1 {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := control.NewReplica(dirs[0], dir, "127.0.0.1", anyPort); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	for _, dir := range dirs {
		all = append(all, serve(t, dir))
	}
	return all, cluster
}

// TestReplicas: any of three control planes answers anything, all publish the same, and members go from one to another.
func TestReplicas(t *testing.T) {
	t.Parallel()
	planes, _ := replicas(t, 3)
	eventually(t, "all know all", func(ctx context.Context) error {
		for _, p := range planes {
			b, err := p.admin.Token(ctx, "orders", 0)
			if err != nil {
				return err
			}
			if len(b.Control) != 3 || len(b.OtherCAs) != 2 {
				return fmt.Errorf("%d mesh addresses, %d more CAs", len(b.Control), len(b.OtherCAs))
			}
		}
		return nil
	})
	// A token of one is good at another, once.
	b, err := planes[0].admin.Token(t.Context(), "payments", 0)
	if err != nil {
		t.Fatal(err)
	}
	at := func(p *plane) *mesh.Bootstrap {
		only := *b
		only.CA, only.OtherCAs, only.Control = "https://"+p.Addresses().CA, nil, []string{p.Addresses().Mesh}
		return &only
	}
	payments := join(t, at(planes[1]), "payments", "")
	if _, err := mesh.Join(t.Context(), mesh.Config{Service: "payments", Bootstrap: at(planes[2])}); err == nil || !strings.Contains(err.Error(), "used") {
		t.Errorf("a used token at another replica: %v", err)
	}
	orders := planes[2].join(t, "orders", "")
	echo(t, payments)

	version := planes[1].apply(t, ordersMayCallPayments)
	eventually(t, "allowed", func(ctx context.Context) error { return ping(ctx, orders) })
	for i, p := range planes {
		eventually(t, "published by all", func(ctx context.Context) error {
			r, err := p.admin.Rules(ctx)
			if err != nil || r.Version != version {
				return fmt.Errorf("replica %d has v%d, %w", i, r.Version, errors.Join(err))
			}
			return nil
		})
	}
	// Any tells who has it, whichever of them the members ask.
	for _, p := range planes {
		s, err := p.admin.Wait(deadline(t), nil)
		if err != nil || s.Version != version || s.Members != 2 || s.Current != 2 || len(s.Replicas) != 3 {
			t.Errorf("status: %+v, %v", s, err)
		}
	}
	// One after the other goes away; members follow whoever is left.
	for i, p := range planes[:2] {
		p.stop()
		left := planes[2]
		if _, err := left.admin.Delete(t.Context(), []string{"payments-callers"}, 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprint("denied, without ", i+1), func(ctx context.Context) error {
			if ping(ctx, orders) == nil {
				return errors.New("still allowed")
			}
			return nil
		})
		left.apply(t, ordersMayCallPayments)
		eventually(t, fmt.Sprint("allowed, without ", i+1), func(ctx context.Context) error { return ping(ctx, orders) })
	}
	planes[2].join(t, "ledger", "")
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestReplicaNeedsSharedStore(t *testing.T) {
	t.Parallel()
	err := control.NewReplica(newDir(t), filepath.Join(t.TempDir(), "new"), "", control.Listen{})
	if err == nil || !strings.Contains(err.Error(), "share an etcd") {
		t.Error(err)
	}
}
