package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
)

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

func openRules(t *testing.T, db store.DB, check store.Check) *store.RuleBook {
	t.Helper()
	b, err := store.OpenRules(t.Context(), db, check, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func createRules(t *testing.T, db store.DB) {
	t.Helper()
	if err := store.CreateRules(t.Context(), db); err != nil {
		t.Fatal(err)
	}
}

func apply(docs ...policy.Document) store.Edit { return store.Edit{Put: docs, Action: "apply"} }

func TestVersionOnlyGrows(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		if _, err := store.OpenRules(t.Context(), db, nil, nil); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("rules of an empty store: %v", err)
		}
		createRules(t, db)
		if err := store.CreateRules(t.Context(), db); err == nil {
			t.Error("rules were made over rules")
		}
		s := openRules(t, db, nil)
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
		r, err := s.Apply(ctx, apply(doc("b", "payments"), doc("a", "payments")))
		want(r, err, 2, store.NamedChange{Name: "b", Change: store.Created}, store.NamedChange{Name: "a", Change: store.Created})
		select {
		case <-changed:
		default:
			t.Error("Changed did not fire")
		}
		changed = s.Changed()
		r, err = s.Apply(ctx, apply(doc("a", "payments")))
		want(r, err, 2, store.NamedChange{Name: "a", Change: store.Unchanged})
		select {
		case <-changed:
			t.Error("Changed fired for nothing")
		default:
		}
		r, err = s.Apply(ctx, apply(doc("a", "ledger"), doc("b", "payments")))
		want(r, err, 3, store.NamedChange{Name: "a", Change: store.Updated}, store.NamedChange{Name: "b", Change: store.Unchanged})
		if _, err := s.Apply(ctx, store.Edit{Delete: []string{"a", "c"}}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("deleting what is not there: %v", err)
		}
		r, err = s.Apply(ctx, store.Edit{Delete: []string{"b"}, Action: "delete"})
		want(r, err, 4, store.NamedChange{Name: "b", Change: store.Deleted})
		before := s.Rules()
		if len(before.Documents) != 1 || before.Documents[0].Spec.Service != "ledger" {
			t.Errorf("left over: %+v", before)
		}
		if after := openRules(t, open(t), nil).Rules(); !reflect.DeepEqual(before, after) {
			t.Errorf("after a restart %+v, before %+v", after, before)
		}
	})
}

func TestAllOrNothing(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		createRules(t, db)
		refusal := errors.New("too many")
		s := openRules(t, db, func(r store.Rules) error {
			if len(r.Documents) > 2 {
				return refusal
			}
			return nil
		})
		if _, err := s.Apply(t.Context(), apply(doc("a", "x"))); err != nil {
			t.Fatal(err)
		}
		before := s.Rules()
		_, err := s.Apply(t.Context(), apply(doc("a", "y"), doc("b", "x"), doc("c", "x")))
		if !errors.Is(err, refusal) || !errors.Is(err, store.ErrInvalid) {
			t.Errorf("the check's refusal came back as %v", err)
		}
		if after := s.Rules(); !reflect.DeepEqual(before, after) {
			t.Errorf("a refused change left %+v of %+v", after, before)
		}
	})
}

func TestHistory(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		createRules(t, db)
		s := openRules(t, db, nil)
		ctx := store.WithActor(t.Context(), store.Actor{Name: "alice", From: "socket"})
		must := func(r store.Result, err error) store.Result {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		must(s.Apply(ctx, apply(doc("a", "x"), doc("b", "x"))))
		must(s.Apply(ctx, store.Edit{Base: 2, Put: []policy.Document{doc("a", "y")}, Replace: true, Action: "apply"}))
		must(s.Apply(ctx, store.Edit{Attach: map[string]json.RawMessage{"roots": json.RawMessage(`[1]`)}, Action: "rotate",
			Also: []store.Op{{Kind: "test", Key: "x", Value: []byte("1")}}}))
		if _, err := db.Get(ctx, "test", "x"); err != nil {
			t.Errorf("what is committed along: %v", err)
		}

		_, err := s.Apply(ctx, store.Edit{Base: 2, Put: []policy.Document{doc("c", "x")}, Action: "apply"})
		stale, ok := errors.AsType[*store.StaleError](err)
		if !ok || stale.Current != 4 || len(stale.Since) != 2 || !strings.Contains(err.Error(), "v3 by alice") || !strings.Contains(err.Error(), "a updated b deleted") {
			t.Errorf("a stale change: %v", err)
		}
		if s.Rules().Version != 4 {
			t.Errorf("it is v%d", s.Rules().Version)
		}

		old, err := s.At(ctx, 2)
		if err != nil || len(old.Documents) != 2 {
			t.Errorf("v2: %+v, %v", old, err)
		}
		r := must(s.Rollback(ctx, 2, 4))
		now := s.Rules()
		if r.Version != 5 || !reflect.DeepEqual(now.Documents, old.Documents) || string(now.Attached["roots"]) != `[1]` {
			t.Errorf("rolled back to %+v", now)
		}
		if _, err := s.Rollback(ctx, 99, 0); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("rollback to what never was: %v", err)
		}
		history, err := s.History(ctx, 3)
		if err != nil || len(history) != 3 || history[0].Version != 5 || history[0].Action != "rollback to v2" || history[0].By.Name != "alice" || history[2].Version != 3 {
			t.Errorf("history: %v, %v", history, err)
		}
		n := 0
		for e, err := range store.AuditLog(ctx, db) {
			if err != nil || n > 0 && e.By.From != "socket" || !strings.HasPrefix(e.Action, "rules: ") {
				t.Errorf("audit: %+v", e)
			}
			n++
		}
		if n != 5 { // the first is the empty v1
			t.Errorf("%d in the audit log", n)
		}
	})
}

// TestManyDocuments takes more than fits into one commit.
func TestManyDocuments(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		createRules(t, db)
		s := openRules(t, db, nil)
		var docs []policy.Document
		for i := range 4000 {
			d := doc(fmt.Sprintf("p%05d", i), "x")
			d.Metadata.Labels = map[string]string{}
			for j := range 8 { // what does not pack well
				d.Metadata.Labels[fmt.Sprint("l", j)] = fmt.Sprintf("%x", uint64(i*8+j+1)*0x9E3779B97F4A7C15)
			}
			docs = append(docs, d)
		}
		if _, err := s.Apply(t.Context(), apply(docs...)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(t.Context(), store.Edit{Delete: []string{"p00000"}}); err != nil {
			t.Fatal(err)
		}
		commit(t, db, put(store.KindRulesData, "00000000000000000002-left-0000", "by a writer that died", 0))
		if err := s.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		again := openRules(t, open(t), nil)
		if !reflect.DeepEqual(again.Rules(), s.Rules()) {
			t.Error("not the same after a restart")
		}
		if r, err := again.At(t.Context(), 2); err != nil || len(r.Documents) != len(docs) {
			t.Errorf("v2: %d documents, %v", len(r.Documents), err)
		}
	})
}

// TestTwoWriters: what two replicas apply at the same time is all there in the end, in both, as one sequence of versions.
func TestTwoWriters(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		createRules(t, db)
		books := []*store.RuleBook{openRules(t, db, nil), openRules(t, db, nil)}
		const each = 10
		var mu sync.Mutex
		seen := make(map[uint64]bool)
		var wg sync.WaitGroup
		for i, b := range books {
			wg.Go(func() {
				for n := range each {
					r, err := b.Apply(t.Context(), apply(doc(fmt.Sprintf("d%d-%d", i, n), "x")))
					mu.Lock()
					if err != nil || seen[r.Version] {
						t.Errorf("v%d, %v", r.Version, err)
					}
					seen[r.Version] = true
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for _, b := range books {
			for b.Rules().Version != 2*each+1 {
				changed := b.Changed()
				if b.Rules().Version == 2*each+1 {
					break
				}
				select {
				case <-changed:
				case <-deadline(t).Done():
					t.Fatalf("stuck at v%d", b.Rules().Version)
				}
			}
			if n := len(b.Rules().Documents); n != 2*each {
				t.Errorf("%d documents", n)
			}
		}
	})
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
