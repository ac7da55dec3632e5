package ca_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/identity"
)

// TestBrought: a CA whose root's key was never there, and whose own key is a file, or in a KMS.
func TestBrought(t *testing.T) {
	elsewhere := newDir(t)
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(elsewhere, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	key := filepath.Join(elsewhere, "intermediate.key")
	good := ca.Brought{Root: read("root.crt"), Intermediate: read("intermediate.crt")}
	for name, b := range map[string]ca.Brought{
		"a file": {Root: good.Root, Intermediate: good.Intermediate, Key: read("intermediate.key")},
		"a KMS":  {Root: good.Root, Intermediate: good.Intermediate, KeyURI: "softkms:path=" + key},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir() + "/ca"
			if err := errors.Join(ca.CreateFrom(dir, trustDomain, b), store.Create(dir+"/store.db")); err != nil {
				t.Fatal(err)
			}
			for _, gone := range []string{"root.key", map[bool]string{true: "intermediate.uri", false: "intermediate.key"}[b.KeyURI == ""]} {
				if _, err := os.Stat(filepath.Join(dir, gone)); !os.IsNotExist(err) {
					t.Errorf("%s is there: %v", gone, err)
				}
			}
			for range 2 { // also after a restart
				s := serve(t, dir, 0)
				cert := s.enrol(t, "orders")
				if _, err := identity.Verify(chainOf(t, cert), s.Bundle()); err != nil {
					t.Error(err)
				}
				if _, refused := s.rekey(t, cert); refused != "" {
					t.Error(refused)
				}
				s.stop()
			}
		})
	}
	with := func(edit func(*ca.Brought)) ca.Brought {
		b := good
		edit(&b)
		return b
	}
	for want, b := range map[string]ca.Brought{
		"the root: want one PEM":  with(func(b *ca.Brought) { b.Root = nil }),
		"the key: want one PEM":   good,
		"does not belong":         with(func(b *ca.Brought) { b.KeyURI = "softkms:path=" + filepath.Join(elsewhere, "root.key") }),
		"nothing-there":           with(func(b *ca.Brought) { b.KeyURI = "softkms:path=/nothing-there" }),
		"has to be linked in":     with(func(b *ca.Brought) { b.KeyURI = "awskms:key-id=1?pin=SECRET" }),
		"not constrained to URIs": with(func(b *ca.Brought) { b.Intermediate, b.Key = b.Root, read("root.key") }),
	} {
		dir := t.TempDir() + "/ca"
		if err := ca.CreateFrom(dir, trustDomain, b); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%v, want %q", err, want)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%q left %s", want, dir)
		}
	}
}
