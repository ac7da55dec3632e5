package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func doc(name, service string) policy.Document {
	return policy.Document{
		APIVersion: policy.APIVersion,
		Kind:       policy.Kind,
		Metadata:   policy.Metadata{Name: name},
		Spec: policy.Spec{Service: service, Action: policy.ActionAllow, Rules: []policy.Rule{
			{From: []policy.Source{{Services: []string{"orders"}}}},
		}},
	}
}

func newStore(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rules.db")
	if err := store.Create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string, check store.Check) *store.Bolt {
	t.Helper()
	s, err := store.Open(path, check)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestVersionOnlyGrows(t *testing.T) {
	path := newStore(t)
	s := open(t, path, nil)
	ctx := t.Context()
	want := func(r store.Result, err error, version uint64, changes ...store.NamedChange) {
		t.Helper()
		if err != nil || r.Version != version || !reflect.DeepEqual(r.Changes, changes) {
			t.Errorf("%+v, %v; want version %d, %v", r, err, version, changes)
		}
	}
	if r := s.Rules(); r.Version != 1 || len(r.Documents) != 0 {
		t.Errorf("new store: %+v", r)
	}
	changed := s.Changed()
	r, err := s.Apply(ctx, []policy.Document{doc("b", "payments"), doc("a", "payments")})
	want(r, err, 2, store.NamedChange{Name: "b", Change: store.Created}, store.NamedChange{Name: "a", Change: store.Created})
	select {
	case <-changed:
	default:
		t.Error("Changed did not fire")
	}
	changed = s.Changed()
	r, err = s.Apply(ctx, []policy.Document{doc("a", "payments")})
	want(r, err, 2, store.NamedChange{Name: "a", Change: store.Unchanged})
	select {
	case <-changed:
		t.Error("Changed fired for nothing")
	default:
	}
	r, err = s.Apply(ctx, []policy.Document{doc("a", "ledger"), doc("b", "payments")})
	want(r, err, 3, store.NamedChange{Name: "a", Change: store.Updated}, store.NamedChange{Name: "b", Change: store.Unchanged})
	if _, err := s.Delete(ctx, []string{"a", "c"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleting what is not there: %v", err)
	}
	r, err = s.Delete(ctx, []string{"b"})
	want(r, err, 4, store.NamedChange{Name: "b", Change: store.Deleted})
	before := s.Rules()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if after := open(t, path, nil).Rules(); !reflect.DeepEqual(before, after) {
		t.Errorf("after a restart %+v, before %+v", after, before)
	}
	if len(before.Documents) != 1 || before.Documents[0].Spec.Service != "ledger" {
		t.Errorf("left over: %+v", before)
	}
}

func TestAllOrNothing(t *testing.T) {
	refusal := errors.New("too many")
	s := open(t, newStore(t), func(r store.Rules) error {
		if len(r.Documents) > 2 {
			return refusal
		}
		return nil
	})
	if _, err := s.Apply(t.Context(), []policy.Document{doc("a", "x")}); err != nil {
		t.Fatal(err)
	}
	before := s.Rules()
	_, err := s.Apply(t.Context(), []policy.Document{doc("a", "y"), doc("b", "x"), doc("c", "x")})
	if !errors.Is(err, refusal) || !errors.Is(err, store.ErrInvalid) {
		t.Errorf("the check's refusal came back as %v", err)
	}
	if after := s.Rules(); !reflect.DeepEqual(before, after) {
		t.Errorf("a refused change left %+v of %+v", after, before)
	}
}

// TestDamage: whatever happened to the file, it is either read as it was or refused; never
// a fresh empty mesh, never a crash.
func TestDamage(t *testing.T) {
	path := newStore(t)
	s := open(t, path, nil)
	var docs []policy.Document
	for _, n := range []string{"a", "b", "c", "d"} {
		docs = append(docs, doc(n, "payments"))
	}
	if _, err := s.Apply(t.Context(), docs); err != nil {
		t.Fatal(err)
	}
	want := s.Rules()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name string, data []byte) {
		t.Helper()
		p := filepath.Join(t.TempDir(), "rules.db")
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := store.Open(p, nil)
		if err != nil {
			if _, ok := errors.AsType[*store.CorruptError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		defer got.Close()
		if !reflect.DeepEqual(got.Rules(), want) {
			t.Errorf("%s: read as %+v", name, got.Rules())
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
	if _, err := store.Open(filepath.Join(t.TempDir(), "rules.db"), nil); err == nil {
		t.Error("a missing file was opened")
	}
	if err := store.Create(path); err == nil {
		t.Error("Create replaced a store")
	}
}
