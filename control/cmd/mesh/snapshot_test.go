package main_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	member "github.com/intramesh/mesh"
)

// TestSnapshotRestore: a member that has newer rules than the snapshot follows what is restored from it.
func TestSnapshotRestore(t *testing.T) {
	dir := newPlane(t)
	p := serve(t, dir)
	must(t, dir, rules, "policy", "apply", "-f", "-")
	must(t, dir, "", "snapshot", "save", "early")
	if code, _, errs := mesh(t, dir, "", "snapshot", "save", "early"); code != 4 || !strings.Contains(errs, "exists") {
		t.Errorf("over a file: %d %s", code, errs)
	}
	if info, err := os.Stat(filepath.Join(dir, "early")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	joinAs(t, member.Config{Bootstrap: token(t, p.client(t), "payments")})
	later := strings.ReplaceAll(rules, "orders", "shop")
	must(t, dir, later, "policy", "apply", "-f", "-")
	must(t, dir, "", "status", "--wait")

	if code, _, errs := mesh(t, dir, "", "snapshot", "restore", "early"); code == 0 || !strings.Contains(errs, "move it away") {
		t.Errorf("over a running mesh: %d %s", code, errs)
	}
	p.kill(t)
	if err := os.Remove(filepath.Join(dir, "mesh-data", "store.db")); err != nil {
		t.Fatal(err)
	}
	// Never a fresh, empty mesh.
	if code, _, errs := mesh(t, dir, "", "serve"); code != 4 || !strings.Contains(errs, "restore it") {
		t.Errorf("without its store: %d %s", code, errs)
	}
	must(t, dir, "", "snapshot", "restore", "early")
	c := serve(t, dir).client(t)
	if out := must(t, dir, "", "policy", "list"); !strings.Contains(out, "payments-callers") || strings.Contains(out, "rules v2\n") {
		t.Errorf("restored: %s", out)
	}
	if out := must(t, dir, "", "policy", "history"); !strings.Contains(out, "restore of v2") {
		t.Errorf("history: %s", out)
	}
	within(t, "the member has what was restored", func(ctx context.Context) error {
		s, err := c.Status(ctx)
		if err == nil && s.Current != 1 {
			err = errors.New(s.String())
		}
		return err
	})
}
