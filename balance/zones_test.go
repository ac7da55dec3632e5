package balance_test

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/intramesh/mesh/balance"
)

// world is a service in some zones: weights at each distance, and the zones that they are in.
type world struct {
	weights [3]float64
	zones   [3]int
}

func drawWorld(t *rapid.T) world {
	var w world
	for d := range 3 {
		w.zones[d] = rapid.IntRange(0, 4).Draw(t, "zones")
		if d == 0 {
			w.zones[d] = 1 // the caller's own
		}
		if w.zones[d] > 0 {
			w.weights[d] = float64(rapid.IntRange(0, 1000).Draw(t, "weight"))
		}
	}
	return w
}

func (w world) shares() [3]float64 { return balance.Shares(w.weights, w.zones) }

func TestSharesProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		s := w.shares()
		total, zones := w.weights[0]+w.weights[1]+w.weights[2], float64(w.zones[0]+w.zones[1]+w.zones[2])
		sum := s[0] + s[1] + s[2]
		if total == 0 {
			if sum != 0 {
				t.Fatalf("%+v: %v of nothing", w, s)
			}
			return
		}
		if math.Abs(sum-1) > 1e-9 {
			t.Fatalf("%+v: %v do not add up to 1", w, s)
		}
		for d := range s {
			if s[d] < 0 || w.weights[d] == 0 && s[d] > 0 {
				t.Fatalf("%+v: %v", w, s)
			}
		}
		// The zone keeps everything while it has its fair part.
		if w.weights[0] >= total/zones && s[0] < 1-1e-9 {
			t.Fatalf("%+v: spills %v although nothing is short", w, s)
		}
		// One more at home: never less stays at home, and no cliff.
		more := w
		more.weights[0]++
		if rise := more.shares()[0] - s[0]; w.weights[0] > 0 && (rise < -1e-9 || rise > 1.4*zones/total+1e-9) {
			t.Fatalf("%+v: one more at home moves %v", w, rise)
		}
		// One more elsewhere: never more stays at home, and no cliff.
		for d := 1; d < 3; d++ {
			more := w
			more.weights[d]++
			if w.zones[d] == 0 {
				continue
			}
			if fall := s[0] - more.shares()[0]; w.weights[d] > 0 && (fall < -1e-9 || fall > 1.4*zones/total+1e-9) {
				t.Fatalf("%+v: one more at distance %d moves %v", w, d, fall)
			}
		}
	})
}

func TestShares(t *testing.T) {
	for _, tt := range []struct {
		name string
		world
		want [3]float64
	}{
		{"even", world{[3]float64{5, 0, 5}, [3]int{1, 0, 1}}, [3]float64{1, 0, 0}},
		{"nobody at home", world{[3]float64{0, 0, 5}, [3]int{1, 0, 1}}, [3]float64{0, 0, 1}},
		{"nobody at home, the region first", world{[3]float64{0, 5, 5}, [3]int{1, 1, 2}}, [3]float64{0, 1, 0}},
		{"one of ten at home", world{[3]float64{1, 0, 9}, [3]int{1, 0, 1}}, [3]float64{0.28, 0, 0.72}},
		{"short at home, the region has room", world{[3]float64{1, 9, 10}, [3]int{1, 1, 2}}, [3]float64{0.28, 0.72, 0}},
		{"short in all the region", world{[3]float64{1, 1, 18}, [3]int{1, 1, 2}}, [3]float64{0.28, 0, 0.72}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.shares()
			for d := range got {
				if math.Abs(got[d]-tt.want[d]) > 1e-9 {
					t.Fatalf("got %v, want %v", got, tt.want)
				}
			}
		})
	}
}

func zoned(own string, perZone map[string]int) *balance.Set[string] {
	s := balance.NewWithRand[string](seeded())
	s.In(own)
	var eps []balance.Endpoint[string]
	for zone, n := range perZone {
		for i := range n {
			eps = append(eps, balance.Endpoint[string]{Key: fmt.Sprintf("%s#%d", zone, i), Zone: zone})
		}
	}
	s.Update(eps)
	return s
}

// inZone makes n requests and returns how many went to each zone.
func inZone(t *testing.T, s *balance.Set[string], n int, request func(*balance.Picked[string])) map[string]int {
	t.Helper()
	got := make(map[string]int)
	for key, n := range share(t, s, n, request) {
		zone := key[:len(key)-2]
		got[zone] += n
	}
	return got
}

func TestZoneFirst(t *testing.T) {
	idle := func(*balance.Picked[string]) {}
	got := inZone(t, zoned("eu/a", map[string]int{"eu/a": 3, "eu/b": 3, "us/a": 3}), 1000, idle)
	between(t, "at home", got["eu/a"], 1000, 1000)
	got = inZone(t, zoned("eu/c", map[string]int{"eu/a": 3, "eu/b": 3, "us/a": 3}), 1000, idle)
	between(t, "in the region", got["eu/a"]+got["eu/b"], 1000, 1000)
	between(t, "in a zone of the region", got["eu/a"], 400, 600)
	got = inZone(t, zoned("a", map[string]int{"a": 1, "b": 9}), 10000, idle)
	between(t, "at home, short", got["a"], 2600, 3000)
	got = inZone(t, zoned("", map[string]int{"a": 5, "b": 5}), 1000, idle)
	between(t, "nowhere at home", got["a"], 400, 600)
}

// As endpoints at home fail one by one, requests leave the zone by and by: with two choices, when both fail. No one that is
// left gets twice its part.
func TestEjectionsSpill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each = 8
		s := zoned("a", map[string]int{"a": each, "b": each})
		last := 10000
		for dead := range each {
			got := share(t, s, 10000, func(p *balance.Picked[string]) {
				if p.Key[0] == 'a' && int(p.Key[2]-'0') < dead {
					p.Failed()
				}
			})
			home := 0
			for i := range each {
				n := got[fmt.Sprintf("a#%d", i)]
				home += n
				between(t, fmt.Sprintf("%d, when %d of %d are dead", i, dead, each), n, 0, 2*10000/each+150)
			}
			alive := float64(each-dead) / each
			want := int(10000 * (1 - (1-alive)*(1-alive)))
			between(t, fmt.Sprintf("at home, when %d of %d are dead", dead, each), home, want-600, min(last+200, want+600))
			last = home
		}
	})
}

func TestWarmth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		age := time.Duration(rapid.Int64Range(-int64(time.Second), int64(20*time.Second)).Draw(t, "age"))
		w, later := balance.Warmth(age), balance.Warmth(age+10*time.Millisecond)
		if w < 0.1 || w > 1 || later < w || later-w > 0.001+1e-9 {
			t.Fatalf("%v: %v, then %v", age, w, later)
		}
	})
}

// Under load a newcomer's part grows steadily to that of the others, with requests one by one or many at once.
func TestSlowStart(t *testing.T) {
	for name, concurrency := range map[string]int{"one by one": 1, "forty at once": 40} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSet("a", "b", "c")
				eps := append(endpoints("a", "b", "c"), balance.Endpoint[string]{Key: "new", Since: time.Now()})
				s.Update(eps)
				var parts []int
				for range 12 { // seconds
					got, rounds := 0, 4000/concurrency
					for range rounds {
						var held []*balance.Picked[string]
						for range concurrency {
							p := pick(t, s)
							if held = append(held, p); p.Key == "new" {
								got++
							}
						}
						pass(time.Second / time.Duration(rounds))
						for _, p := range held {
							p.Done()
						}
					}
					parts = append(parts, got)
				}
				between(t, "first second", parts[0], 20, 350)
				between(t, "half of the way", parts[5], 450, 950)
				between(t, "afterwards", parts[11], 850, 1150)
				for i := 1; i < len(parts); i++ {
					between(t, fmt.Sprintf("second %d", i), parts[i], parts[i-1]-150, parts[i-1]+400)
				}
			})
		})
	}
}

func BenchmarkPickZones(b *testing.B) {
	s := balance.New[int]()
	s.In("eu/a")
	var eps []balance.Endpoint[int]
	for i := range 30 {
		eps = append(eps, balance.Endpoint[int]{Key: i, Zone: []string{"eu/a", "eu/b", "us/a"}[i%3]})
	}
	s.Update(eps)
	b.ReportAllocs()
	for b.Loop() {
		p, _ := s.Pick()
		p.Done()
	}
}
