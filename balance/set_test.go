package balance_test

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/balance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seeded returns a reproducible source, safe for concurrent use.
func seeded() func() uint64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(1, 2))
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Uint64()
	}
}

func newSet(keys ...string) *balance.Set[string] {
	s := balance.NewWithRand[string](seeded())
	s.Update(endpoints(keys...))
	return s
}

func endpoints(keys ...string) []balance.Endpoint[string] {
	eps := make([]balance.Endpoint[string], len(keys))
	for i, k := range keys {
		eps[i].Key = k
	}
	return eps
}

func pick(t *testing.T, s *balance.Set[string], tried ...string) *balance.Picked[string] {
	t.Helper()
	p, ok := s.Pick(tried...)
	if !ok {
		t.Fatalf("nothing to pick, tried %v", tried)
	}
	return &p
}

// pickKey picks until it gets key, and returns the others unused.
func pickKey(t *testing.T, s *balance.Set[string], key string) *balance.Picked[string] {
	t.Helper()
	for range 1000 {
		p := pick(t, s)
		if p.Key == key {
			return p
		}
		defer p.Done()
	}
	t.Fatalf("%s was not picked in 1000 attempts", key)
	return nil
}

// share makes n requests one after the other and returns how many each endpoint got.
func share(t *testing.T, s *balance.Set[string], n int, request func(*balance.Picked[string])) map[string]int {
	t.Helper()
	got := map[string]int{}
	for range n {
		p := pick(t, s)
		got[p.Key]++
		request(p)
		p.Done()
	}
	return got
}

// pass lets time pass, inside synctest.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // virtual time

func between(t *testing.T, what string, got, lo, hi int) {
	t.Helper()
	if got < lo || got > hi {
		t.Errorf("%s: got %d, want %d to %d", what, got, lo, hi)
	}
}

func TestEmpty(t *testing.T) {
	s := balance.New[string]()
	if _, ok := s.Pick(); ok {
		t.Error("picked from an empty set")
	}
	s.Update(endpoints("a"))
	pick(t, s).Done()
	s.Update(nil)
	if _, ok := s.Pick(); ok {
		t.Error("picked from an emptied set")
	}
}

func TestTriedAreNotPickedAgain(t *testing.T) {
	s := newSet("a", "b", "c")
	for range 100 {
		if p := pick(t, s, "a", "c"); p.Key != "b" {
			t.Fatalf("picked %s again", p.Key)
		}
	}
	if _, ok := s.Pick("c", "b", "a"); ok {
		t.Error("picked although all were tried")
	}
}

func TestEqualsShareSequentialRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "b")
		// 0.3 ms against 1.5 ms: noise, not a reason to starve b.
		latency := map[string]time.Duration{"a": 300 * time.Microsecond, "b": 1500 * time.Microsecond}
		got := share(t, s, 1000, func(p *balance.Picked[string]) {
			pass(latency[p.Key])
			p.Succeeded(latency[p.Key])
		})
		between(t, "a", got["a"], 450, 550)
	})
}

func TestWeights(t *testing.T) {
	s := balance.NewWithRand[string](seeded())
	s.Update([]balance.Endpoint[string]{{Key: "a", Weight: 6}, {Key: "b"}, {Key: "c", Weight: 3}})
	got := share(t, s, 10000, func(*balance.Picked[string]) {})
	between(t, "a", got["a"], 5700, 6300)
	between(t, "b", got["b"], 900, 1100)
	between(t, "c", got["c"], 2700, 3300)

	held := map[string]int{}
	for range 1000 {
		held[pick(t, s).Key]++
	}
	between(t, "a held", held["a"], 570, 630)
	between(t, "c held", held["c"], 270, 330)
}

// With one choice the fullest of n bins holds about ln n / ln ln n balls more than the mean, with
// two it is ln ln n / ln 2: for n = 1000, 5 or 6 against 3 (Mitzenmacher 2001, table 1).
func TestTwoChoicesBoundTheFullest(t *testing.T) {
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = string(rune('0'+i/100)) + string(rune('0'+i/10%10)) + string(rune('0'+i%10))
	}
	s := newSet(keys...)
	held := map[string]int{}
	fullest := 0
	for range keys {
		k := pick(t, s).Key
		held[k]++
		fullest = max(fullest, held[k])
	}
	between(t, "fullest", fullest, 2, 3)
}

func TestSlowEndpointIsAvoidedAndForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "slow")
		slow := 100 * time.Millisecond
		request := func(p *balance.Picked[string]) {
			d := 2 * time.Millisecond
			if p.Key == "slow" {
				d = slow
			}
			pass(d)
			p.Succeeded(d)
		}
		got := share(t, s, 2000, request)
		between(t, "slow", got["slow"], 1, 20)

		slow = 2 * time.Millisecond
		start := time.Now()
		for time.Since(start) < 5*time.Second {
			share(t, s, 1, request)
		}
		got = share(t, s, 1000, request)
		between(t, "slow, after it got fast", got["slow"], 400, 600)
	})
}

func TestProbeOfForgottenLatencyIsSingle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "slow")
		p := pickKey(t, s, "slow")
		p.Succeeded(200 * time.Millisecond)
		p.Done()
		pass(time.Hour)
		held := map[string]int{}
		for range 40 { // by then 40 on one are as bad as one on the other
			held[pick(t, s).Key]++
		}
		between(t, "slow", held["slow"], 1, 1)
	})
}

func TestFastRefusalsDoNotAttract(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("ok", "refusing")
		got := share(t, s, 2000, func(p *balance.Picked[string]) {
			if p.Key == "refusing" {
				p.Rejected(50 * time.Microsecond)
				return
			}
			pass(5 * time.Millisecond)
			p.Succeeded(5 * time.Millisecond)
		})
		between(t, "refusing", got["refusing"], 1, 80)
	})
}

func TestNewcomerStartsAverage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "b")
		for _, k := range []string{"a", "b"} {
			p := pickKey(t, s, k)
			p.Succeeded(50 * time.Millisecond)
			p.Done()
		}
		s.Update(endpoints("a", "b", "new"))
		held := map[string]int{}
		for range 300 {
			held[pick(t, s).Key]++
		}
		between(t, "new", held["new"], 95, 105)
	})
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1, 2, 10, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			s := balance.New[int]()
			eps := make([]balance.Endpoint[int], n)
			for i := range eps {
				eps[i].Key = i
			}
			s.Update(eps)
			b.ReportAllocs()
			for b.Loop() {
				p, _ := s.Pick()
				p.Done()
			}
		})
	}
}
