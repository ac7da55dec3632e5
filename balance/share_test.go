package balance_test

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/balance"
)

// Sets that share know the same of the endpoints that both have, and nothing of the others.
func TestUpdateFromShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newSet("a", "b", "c")
		pass(time.Minute) // the sets are of different ages
		some := balance.NewWithRand[string](seeded())
		some.UpdateFrom(all, []balance.Endpoint[string]{{Key: "a"}, {Key: "b"}, {Key: "own"}})
		want := func(s *balance.Set[string], keys ...string) {
			t.Helper()
			got, wanted := make(map[string]bool), make(map[string]bool)
			for _, k := range keys {
				wanted[k] = true
			}
			for range 200 {
				p, _ := s.Pick()
				p.Done()
				got[p.Key] = true
			}
			if !maps.Equal(got, wanted) {
				t.Errorf("chosen: %v, want %v", got, wanted)
			}
		}
		want(all, "a", "b", "c")
		want(some, "a", "b", "own")
		all.Failed("a")
		some.Failed("own")
		want(all, "b", "c")
		want(some, "b")

		some.Failed("b")
		want(all, "c")
		pass(1500 * time.Millisecond)
		for range 100 { // one after the other is tried, and is back for both
			p, _ := some.Pick()
			p.Succeeded(0)
			p.Done()
		}
		want(all, "a", "b", "c")

		busy, _ := some.Pick()
		for busy.Key == "own" {
			busy.Done()
			busy, _ = some.Pick()
		}
		two := balance.NewWithRand[string](seeded())
		two.UpdateFrom(all, []balance.Endpoint[string]{{Key: "a"}, {Key: "b"}})
		for range 100 { // what is in flight counts for all: of two that are as fast, the idle one is better
			p, _ := two.Pick()
			p.Done()
			if p.Key == busy.Key {
				t.Fatalf("%s was chosen, which is in use", p.Key)
			}
		}
		busy.Done()
	})
}
