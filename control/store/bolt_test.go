package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/intramesh/mesh/control/store"
)

// TestDamage: whatever happened to the file, it is either read as it was or refused; never
// a fresh empty mesh, never a crash.
func TestDamage(t *testing.T) {
	path := newStore(t)
	s := open(t, path)
	for i := range 4 {
		commit(t, s, put("a", fmt.Sprint("x", i), "some value", 0), put("b", fmt.Sprint(i), "some other value", 0))
	}
	want := list(t, s, "")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name string, data []byte) {
		t.Helper()
		p := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := store.Open(p)
		if err != nil {
			if _, ok := errors.AsType[*store.CorruptError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		defer got.Close()
		if all := list(t, got, ""); !slices.Equal(all, want) {
			t.Errorf("%s: read as %q", name, all)
		}
	}
	for size := 0; size < len(whole); size += 1000 {
		try("cut off", whole[:size])
	}
	for at := 0; at < len(whole); at += 97 {
		flipped := append([]byte(nil), whole...)
		flipped[at] ^= 0x41
		try("flipped", flipped)
	}
	if _, err := store.Open(filepath.Join(t.TempDir(), "store.db")); err == nil {
		t.Error("a missing file was opened")
	}
	if err := store.Create(path); err == nil {
		t.Error("Create replaced a store")
	}
}
