package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	member "github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/policy"
)

// TestRotateAndKill: "mesh ca rotate" under traffic, with the control plane killed in each phase. No call fails, and a
// connection that was open before stays open until the old root goes.
func TestRotateAndKill(t *testing.T) {
	t.Parallel()
	dir := newPlane(t)
	settings := filepath.Join(dir, "mesh-data", "mesh.yaml")
	text, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, []byte(strings.Replace(string(text), "certificate_lifetime: 24h", "certificate_lifetime: 2m", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serve(t, dir)
	c := p.client(t)
	payments := joinAs(t, member.Config{Bootstrap: token(t, c, "payments")})
	orders := joinAs(t, member.Config{Bootstrap: token(t, c, "orders")})
	at := echo(t, payments)
	if _, err := c.Apply(t.Context(), []policy.Document{document("callers", 1)}, admin.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	within(t, "orders is allowed", func(ctx context.Context) error { return ping(ctx, orders, at) })

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	held, err := orders.DialEndpoint(ctx, "payments", at)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	var calls, failed, echoes atomic.Int64
	var last atomic.Value
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := ping(ctx, orders, at); err != nil && ctx.Err() == nil {
					failed.Add(1)
					last.Store(err)
				}
				calls.Add(1)
			}
		})
	}
	broken := make(chan error, 1)
	wg.Go(func() {
		for b := make([]byte, 4); ctx.Err() == nil; echoes.Add(1) {
			_, err := held.Write(b)
			if err == nil {
				_, err = io.ReadFull(held, b)
			}
			if err != nil {
				broken <- err
				return
			}
		}
	})
	// The command itself outlives the control plane, and goes on when that is back.
	rotate := exec.CommandContext(t.Context(), binary, "ca", "rotate", "--grace", "1s")
	rotate.Dir = dir
	rotate.Env = append(os.Environ(), "MESH_DIR=")
	var out strings.Builder
	rotate.Stdout, rotate.Stderr = &out, &out
	if err := rotate.Start(); err != nil {
		t.Fatal(err)
	}
	status := func(ctx context.Context) (s admin.Authorities, err error) {
		s, err = c.Authorities(ctx)
		if err == nil && s.Rotation == nil {
			err = errors.New("there is no rotation")
		}
		return s, err
	}
	within(t, "it begins", func(ctx context.Context) error { _, err := status(ctx); return err })
	for _, phase := range []string{admin.PhaseAdding, admin.PhaseIssuing} {
		within(t, "it is "+phase, func(ctx context.Context) error {
			s, err := status(ctx)
			if err == nil && s.Rotation.Phase != phase {
				err = errors.New(s.Rotation.Phase)
			}
			return err
		})
		select {
		case err := <-broken:
			t.Errorf("a connection in use broke while the phase was %s: %v", phase, err)
		default:
		}
		p.kill(t)
		p = serve(t, dir)
	}
	if err := rotate.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	for _, want := range []string{"1/3 new root", "2/3 certificates are by", "done: members trust"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	var now admin.Authorities
	if err := json.Unmarshal([]byte(must(t, dir, "", "ca", "status", "-o", "json")), &now); err != nil || len(now.Trusted) != 1 {
		t.Errorf("%+v, %v", now, err)
	}
	within(t, "who is new gets in", func(ctx context.Context) error {
		return ping(ctx, joinAs(t, member.Config{Bootstrap: token(t, c, "orders")}), at)
	})
	stop()
	wg.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d calls failed, the last with %v", n, calls.Load(), last.Load())
	}
	t.Logf("%d calls, %d failed; %d echoes on one connection\n%s", calls.Load(), failed.Load(), echoes.Load(), &out)
}
