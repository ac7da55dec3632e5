package balance_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/balance"
)

func TestEjectionGrowsAndProbesOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "bad")
		p := pickKey(t, s, "bad")
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			p.Failed()
			p.Done()
			neverBad(t, s)
			pass(want*time.Second - 1)
			neverBad(t, s)
			pass(time.Nanosecond)
			p = pickKey(t, s, "bad")
			neverBad(t, s) // while the probe is out
		}
		p.Succeeded(0)
		p.Done()
		got := share(t, s, 1000, func(*balance.Picked[string]) {})
		between(t, "bad, taken back", got["bad"], 450, 550)

		p = pickKey(t, s, "bad")
		p.Failed()
		p.Done()
		pass(time.Second)
		pickKey(t, s, "bad").Done() // one second again
		pickKey(t, s, "bad").Done() // a probe without a verdict leaves room for the next
	})
}

// neverBad picks 100 endpoints and holds them, so that any other would be more attractive.
func neverBad(t *testing.T, s *balance.Set[string]) {
	t.Helper()
	for range 100 {
		p := pick(t, s)
		defer p.Done()
		if p.Key == "bad" {
			t.Fatal("picked an endpoint that is ejected")
		}
	}
}

func TestFailuresInFlightTogetherCountOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "bad")
		var out []*balance.Picked[string]
		for range 50 {
			out = append(out, pickKey(t, s, "bad"))
		}
		pass(time.Millisecond)
		for _, p := range out {
			p.Failed()
			p.Done()
		}
		pass(time.Second)
		pickKey(t, s, "bad").Done()
	})
}

func TestLateSuccessDoesNotEndEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "bad")
		early, late := pickKey(t, s, "bad"), pickKey(t, s, "bad")
		pass(time.Millisecond)
		early.Failed()
		early.Done()
		late.Succeeded(time.Millisecond)
		late.Done()
		neverBad(t, s)
	})
}

func TestAllEjectedPicksTheFirstDueBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "b", "c")
		for _, k := range []string{"b", "a", "c"} {
			p := pickKey(t, s, k)
			p.Failed()
			p.Done()
			pass(100 * time.Millisecond)
		}
		if p := pick(t, s); p.Key != "b" {
			t.Errorf("picked %s, want b", p.Key)
		}
		if p := pick(t, s, "b"); p.Key != "a" {
			t.Errorf("picked %s after b, want a", p.Key)
		}
		p := pick(t, s)
		p.Succeeded(0)
		p.Done()
		if got := share(t, s, 100, func(*balance.Picked[string]) {}); got["b"] != 100 {
			t.Errorf("b works again, yet the shares are %v", got)
		}
	})
}

func TestTiers(t *testing.T) {
	s := balance.NewWithRand[string](seeded())
	s.Update([]balance.Endpoint[string]{{Key: "suspect", Tier: 1}, {Key: "a"}, {Key: "b"}})
	got := share(t, s, 200, func(*balance.Picked[string]) {})
	between(t, "suspect", got["suspect"], 0, 0)

	if p := pick(t, s, "a", "b"); p.Key != "suspect" {
		t.Errorf("picked %s after a and b, want suspect", p.Key)
	}
	for _, k := range []string{"a", "b"} {
		p := pickKey(t, s, k)
		p.Failed()
		p.Done()
	}
	got = share(t, s, 100, func(*balance.Picked[string]) {})
	between(t, "suspect, the others ejected", got["suspect"], 100, 100)
}

func TestUpdateKeepsWhatIsKnown(t *testing.T) {
	s := newSet("a", "bad")
	p := pickKey(t, s, "bad")
	p.Failed()
	s.Update(endpoints("bad", "a", "c"))
	neverBad(t, s)
	p.Done()
	s.Update(endpoints("a"))
	s.Update(endpoints("a", "bad"))
	pickKey(t, s, "bad").Done() // gone in between: a clean slate
}

func TestConcurrentUse(t *testing.T) {
	s := balance.New[int]()
	done := make(chan struct{})
	for w := range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 2000 {
				p, ok := s.Pick(-1)
				if !ok {
					s.Update([]balance.Endpoint[int]{{Key: 1}, {Key: 2}, {Key: w + 3}})
					continue
				}
				switch i % 3 {
				case 0:
					p.Succeeded(time.Duration(i))
				case 1:
					p.Rejected(time.Duration(i))
				case 2:
					p.Failed()
				}
				p.Done()
				if i%100 == 0 {
					s.Update([]balance.Endpoint[int]{{Key: 1}, {Key: 2}, {Key: w + 3}})
				}
			}
		}()
	}
	for range 4 {
		<-done
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	s := newSet("a", "b", "c")
	if n := testing.AllocsPerRun(1000, func() {
		p, _ := s.Pick()
		p.Succeeded(time.Millisecond)
		p.Done()
		p, _ = s.Pick("a")
		p.Done()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What is avoided stays so, whatever becomes of requests, and is a last resort; afterwards it is as if nothing had been.
func TestAvoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "bad")
		p := pickKey(t, s, "bad")
		s.Avoid("bad", true)
		neverBad(t, s)
		p.Succeeded(0)
		neverBad(t, s)
		p.Failed()
		p.Done()
		pass(time.Hour)
		neverBad(t, s)
		if p := pick(t, s, "a"); p.Key != "bad" {
			t.Errorf("picked %s after a, want bad", p.Key)
		} else {
			p.Done()
		}
		failed := pickKey(t, s, "a")
		failed.Failed()
		failed.Done()
		if p := pick(t, s); p.Key != "a" { // as it is due back
			t.Errorf("all are ejected: picked %s, want a", p.Key)
		} else {
			p.Done()
		}
		pass(time.Minute)

		s.Avoid("bad", false)
		s.Avoid("a", false) // never was
		p = pickKey(t, s, "bad")
		p.Failed()
		p.Done()
		neverBad(t, s)
		pass(time.Second)
		pickKey(t, s, "bad").Done() // one second, like the first failure of all
	})
}
