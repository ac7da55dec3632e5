package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/store"
)

func put(kind, key, value string, onlyIf uint64) store.Op {
	return store.Op{Kind: kind, Key: key, Value: []byte(value), If: onlyIf}
}

func commit(t *testing.T, db store.DB, ops ...store.Op) uint64 {
	t.Helper()
	r, err := db.Commit(t.Context(), ops...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// list returns a kind as "key=value".
func list(t *testing.T, db store.DB, kind string) (all []string) {
	t.Helper()
	for r, err := range db.All(t.Context(), kind) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r.Key+"="+string(r.Value))
	}
	return all
}

func isConflict(err error, key string) bool {
	c, ok := errors.AsType[*store.ConflictError](err)
	return ok && c.Key == key
}

func TestRecords(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		if _, err := db.Get(t.Context(), "a", "x"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("what is not there: %v", err)
		}
		one := commit(t, db, put("a", "y", "1", store.Absent), put("a", "x", "2", 0), put("ab", "z", "3", 0), put("a", "x/y", "", 0))
		r, err := db.Get(t.Context(), "a", "y")
		if err != nil || string(r.Value) != "1" || r.Revision != one || r.Kind != "a" || r.Key != "y" {
			t.Errorf("%+v, %v", r, err)
		}
		if got := list(t, db, "a"); !slices.Equal(got, []string{"x=2", "x/y=", "y=1"}) {
			t.Errorf("kind a: %q", got)
		}
		if got := list(t, db, ""); len(got) != 4 {
			t.Errorf("all: %q", got)
		}
		two := commit(t, db, put("a", "y", "4", one), store.Op{Kind: "a", Key: "x", If: one, Check: true})
		if two <= one {
			t.Errorf("revision %d after %d", two, one)
		}
		db = open(t) // again
		if got := list(t, db, "a"); !slices.Equal(got, []string{"x=2", "x/y=", "y=4"}) {
			t.Errorf("kind a: %q", got)
		}
		three := commit(t, db, store.Op{Kind: "a", Key: "x"}, store.Op{Kind: "a", Key: "nothing"})
		if three <= two {
			t.Errorf("revision %d after %d", three, two)
		}
		if got := list(t, db, "a"); !slices.Equal(got, []string{"x/y=", "y=4"}) {
			t.Errorf("kind a: %q", got)
		}
	})
}

func TestConditions(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		one := commit(t, db, put("a", "x", "1", 0))
		two := commit(t, db, put("a", "y", "1", 0))
		for _, c := range []struct {
			name, key string // the one that conflicts
			ops       []store.Op
		}{
			{"there already", "x", []store.Op{put("a", "new", "", 0), put("a", "x", "2", store.Absent)}},
			{"not there", "z", []store.Op{put("a", "new", "", 0), put("a", "z", "2", one)}},
			{"older", "y", []store.Op{put("a", "new", "", 0), put("a", "x", "2", one), put("a", "y", "2", one)}},
			{"delete", "x", []store.Op{put("a", "new", "", 0), {Kind: "a", Key: "x", If: two}}},
			{"check", "x", []store.Op{put("a", "new", "", 0), {Kind: "a", Key: "x", If: two, Check: true}}},
			{"check absence", "x", []store.Op{put("a", "new", "", 0), {Kind: "a", Key: "x", If: store.Absent, Check: true}}},
		} {
			if _, err := db.Commit(t.Context(), c.ops...); !isConflict(err, c.key) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if got := list(t, db, "a"); !slices.Equal(got, []string{"x=1", "y=1"}) {
			t.Errorf("after refusals: %q", got)
		}
		commit(t, db, put("a", "x", "2", one), put("a", "z", "2", store.Absent), store.Op{Kind: "a", Key: "y", If: two})
		if got := list(t, db, "a"); !slices.Equal(got, []string{"x=2", "z=2"}) {
			t.Errorf("after all: %q", got)
		}
	})
}

func TestLimits(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		var many []store.Op
		for i := range store.MaxOps + 1 {
			many = append(many, put("a", fmt.Sprint(i), "", store.Absent))
		}
		big := put("a", "big", strings.Repeat("b", store.MaxCommit-4), store.Absent)
		for _, ops := range [][]store.Op{
			nil, many, {big, put("a", "x", "", 0)}, {put("a", "", "", 0)}, {put("", "a", "", 0)}, {put("a/b", "a", "", 0)},
			{put("a", strings.Repeat("k", store.MaxKey+1), "", 0)}, {put("a", "x", "", 0), put("a", "x", "", 0)},
		} {
			if _, err := db.Commit(t.Context(), ops...); err == nil {
				t.Errorf("%d ops were accepted", len(ops))
			}
		}
		commit(t, db, many[:store.MaxOps]...)
		commit(t, db, big)
		if got := list(t, db, "a"); len(got) != store.MaxOps+1 {
			t.Errorf("%d records", len(got))
		}
		n := 0
		for _, err := range db.All(t.Context(), "a") { // a loop may end early
			if err != nil {
				t.Fatal(err)
			}
			if n++; n == 70 {
				break
			}
		}
		dead, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := db.Commit(dead, put("a", "late", "", 0)); err == nil {
			t.Error("a commit after its context's end")
		}
	})
}

func TestWatch(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		watch := db.Watch(t.Context(), "a")
		<-watch // the first comes at once; etcd's then says that it is there
		got := func(wait time.Duration) bool {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			select {
			case <-watch:
				return true
			case <-timer.C:
				return false
			}
		}
		got(time.Second)
		commit(t, db, put("b", "x", "", 0))
		commit(t, db, put("ab", "x", "", 0))
		if got(100 * time.Millisecond) {
			t.Error("a signal for another kind")
		}
		commit(t, db, put("a", "x", "", 0))
		if !got(10 * time.Second) {
			t.Error("no signal for a write")
		}
		commit(t, db, store.Op{Kind: "a", Key: "x"})
		if !got(10 * time.Second) {
			t.Error("no signal for a delete")
		}
	})
}

// TestOneWins: of many who want to be first, one is.
func TestOneWins(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		counter := store.Table[int]{DB: db, Kind: "counter"}
		const workers, rounds = 8, 5
		var wins sync.Map
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for round := range rounds {
					_, err := db.Commit(t.Context(), put("first", fmt.Sprint(round), "", store.Absent))
					if err == nil {
						if _, twice := wins.LoadOrStore(round, true); twice {
							t.Errorf("round %d was won twice", round)
						}
					} else if !isConflict(err, fmt.Sprint(round)) {
						t.Error(err)
					}
					for { // Update gives up at some point
						err = counter.Update(t.Context(), "n", func(n *int, _ bool) ([]store.Op, error) { *n++; return nil, nil })
						if !isConflict(err, "n") {
							break
						}
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n, _, err := counter.Get(t.Context(), "n"); err != nil || n != workers*rounds {
			t.Errorf("counted %d of %d, %v", n, workers*rounds, err)
		}
	})
}

func TestPrune(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		for i := range 9 {
			commit(t, db, put("a", fmt.Sprint(i), "", 0))
		}
		n, err := store.Prune(t.Context(), db, "a", func(r store.Record) bool { return r.Key < "5" })
		if err != nil || n != 5 || len(list(t, db, "a")) != 4 {
			t.Errorf("%d pruned, %v", n, err)
		}
	})
}

func TestAudit(t *testing.T) {
	each(t, func(t *testing.T, open func(*testing.T) store.DB) {
		db := open(t)
		ctx := store.WithActor(t.Context(), store.Actor{Name: "alice", From: "192.0.2.7"})
		for i := range 3 {
			commit(t, db, store.Audit(ctx, "test", fmt.Sprint(i), strings.Repeat("x", 10_000)))
		}
		n := 0
		for e, err := range store.AuditLog(t.Context(), db) {
			if err != nil || e.Subject != fmt.Sprint(n) || e.By.Name != "alice" || e.At.IsZero() || len(e.Detail) > 5000 {
				t.Errorf("%+v, %v", e, err)
			}
			n++
		}
		if n != 3 {
			t.Errorf("%d entries", n)
		}
	})
}
