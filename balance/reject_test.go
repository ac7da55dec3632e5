package balance_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/balance"
)

// loop has so many requests under way for a time, each worker's after the other, and returns how many each endpoint got.
func loop(t *testing.T, s *balance.Set[string], workers int, d time.Duration, request func(p *balance.Picked[string], n int)) map[string]int {
	t.Helper()
	var mu sync.Mutex
	got := make(map[string]int)
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for time.Now().Before(end) {
				p := pick(t, s)
				mu.Lock()
				got[p.Key]++
				n := got[p.Key]
				mu.Unlock()
				request(p, n)
				p.Done()
			}
		})
	}
	wg.Wait()
	return got
}

// Beside two endpoints that take 2 ms, one that fails in 50 µs looks idle all the time.
func TestFastFailuresGetNext(t *testing.T) {
	for name, fail := range map[string]func(*balance.Picked[string]){
		"rejects": func(p *balance.Picked[string]) { p.Rejected(50 * time.Microsecond) },
		"fails":   func(p *balance.Picked[string]) { p.Failed() },
		"is reached, then rejects": func(p *balance.Picked[string]) {
			p.Reached(0)
			p.Rejected(0)
		},
	} {
		for _, workers := range []int{1, 16, 256} {
			t.Run(fmt.Sprint(name, workers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSet("a", "b", "bad")
					got := loop(t, s, workers, 3*time.Second, func(p *balance.Picked[string], _ int) {
						if p.Key == "bad" {
							pass(50 * time.Microsecond)
							fail(p)
							return
						}
						pass(2 * time.Millisecond)
						p.Succeeded(2 * time.Millisecond)
					})
					all := got["a"] + got["b"] + got["bad"]
					between(t, "bad, of "+fmt.Sprint(all), got["bad"], 1, max(all/50, workers))
				})
			})
		}
	}
}

// Who rejects a part of its requests never gets more than who answers all; who recovers has its share again.
func TestPartOfTheRequestsRejected(t *testing.T) {
	for _, every := range []int{2, 3, 10} {
		for _, workers := range []int{1, 16, 256} {
			t.Run(fmt.Sprint("one of ", every, " with ", workers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newSet("a", "b", "bad")
					request := func(p *balance.Picked[string], n int) {
						if p.Key == "bad" && n%every == 0 {
							pass(50 * time.Microsecond)
							p.Rejected(50 * time.Microsecond)
							return
						}
						pass(2 * time.Millisecond)
						p.Succeeded(2 * time.Millisecond)
					}
					got := loop(t, s, workers, 3*time.Second, request)
					all := got["a"] + got["b"] + got["bad"]
					between(t, "bad, of "+fmt.Sprint(all), got["bad"], 1, all*10/27) // a third, and a tenth of that
					every = 1 << 30
					loop(t, s, workers, 2*time.Second, request)
					got = loop(t, s, workers, time.Second, request)
					all = got["a"] + got["b"] + got["bad"]
					between(t, "well again, of "+fmt.Sprint(all), got["bad"], all*4/15, all*6/15)
				})
			})
		}
	}
}

// When all reject, they share what there is.
func TestAllReject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSet("a", "b", "c")
		got := loop(t, s, 16, time.Second, func(p *balance.Picked[string], _ int) {
			pass(time.Millisecond)
			p.Rejected(time.Millisecond)
		})
		all := got["a"] + got["b"] + got["c"]
		for key, n := range got {
			between(t, key, n, all/4, all/2)
		}
	})
}
