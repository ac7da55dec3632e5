// Package balance answers which one now: given the endpoints of a service and what this
// process has seen of them, which one gets the next request.
//
// A [Set] takes two endpoints at random and uses the one that promises to be done sooner
// (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10),
// 2001). The promise is the endpoint's recent latency times the requests it would have to
// serve at once; the latency is a moving average that follows a rise at once and a fall slowly
// (Finagle's peak EWMA; see the comment of its class PeakEwma). Ours differs in four ways, each so
// that equals share the load evenly instead of the luckiest taking it all: one sample counts for half; the
// average is remembered for a time that grows with what was measured, so that a hiccup of 20 ms is
// forgotten in about 0.1 s; the benefit of having been forgotten goes to one request at a time; and
// differences below a factor of two, or below 2 ms, are noise.
//
// An endpoint that rejects part of its requests gets less of them, however fast it does so; one that rejects them all gets next to none,
// while others do better, and has its share again a second or two after it stopped.
//
// An endpoint that failed is ejected for 1, 2, 4 … 30 seconds, then gets one request at a time
// until one succeeds. Active checks eject it for as long as they fail: see [Set.Avoid]. Ejection never empties a set: when every
// endpoint is ejected, the one that is due back first is used.
//
// Endpoints near the caller come first, as far as they last: see [Shares]. A newcomer's share grows with its age: see
// Endpoint.Since.
package balance

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An Endpoint is one choice.
type Endpoint[K comparable] struct {
	// Key identifies the endpoint. What was learnt of it is kept by key from one
	// [Set.Update] to the next.
	Key K
	// Weight is the relative capacity; 0 counts as 1.
	Weight uint16
	// Tier orders endpoints: one of a higher tier is used only while every endpoint of the
	// lower ones is ejected or was tried.
	Tier uint8
	// Zone is where the endpoint is, "zone" or "region/zone"; see [Set.In].
	Zone string
	// Since is when the endpoint began to take traffic, if that was after the others did: for ten seconds its weight grows from a
	// tenth to all of it, in proportion to its age (as slow start does in Envoy, with its defaults of aggression and least weight,
	// and in nginx). The zero time is that of an endpoint which is not new.
	Since time.Time
}

// A Set holds the endpoints of one service and what is known of them. Make one with
// [New]; it is safe for concurrent use.
type Set[K comparable] struct {
	born time.Time
	rand func() uint64
	list atomic.Pointer[list[K]]

	mu   sync.Mutex // serialises Update
	zone string
}

// list is immutable.
type list[K comparable] struct {
	entries []entry[K]   // by tier and distance
	groups  []group      // of the lowest tier, at least one unless there are no entries
	clock   clock        // of the set
	warm    atomic.Int64 // when the last of the newcomers is none any more; 0 without
}

type entry[K comparable] struct {
	*node
	key      K
	per      float64 // 1 / weight
	since    int64   // of a newcomer, by the list's clock
	fresh    bool    // since counts
	tier     uint8
	distance uint8
}

// New returns a set without endpoints.
func New[K comparable]() *Set[K] { return NewWithRand[K](rand.Uint64) }

// NewWithRand returns a set that draws from rand, which must be safe for concurrent use.
func NewWithRand[K comparable](rand func() uint64) *Set[K] {
	s := &Set[K]{born: time.Now(), rand: rand}
	s.list.Store(&list[K]{})
	return s
}

// In says in which zone the caller is, from the next Update on. Without a zone, all endpoints are equally near.
func (s *Set[K]) In(zone string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone = zone
}

// Update replaces the endpoints. Those whose key was there before keep their statistics; a
// new one starts with the average latency of the others, so that it is not flooded.
func (s *Set[K]) Update(endpoints []Endpoint[K]) { s.UpdateFrom(s, endpoints) }

// UpdateFrom is Update for a set that shares with another one what is known of endpoints that both have: what is learnt by one
// counts for both, from then on until the other one drops the endpoint.
func (s *Set[K]) UpdateFrom(other *Set[K], endpoints []Endpoint[K]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.list.Load()
	known := make(map[K]*node, len(old.entries))
	sum := 0.0
	for _, e := range old.entries {
		known[e.key] = e.node
		sum += e.latency()
	}
	if other != s {
		for _, e := range other.list.Load().entries {
			known[e.key] = e.node
		}
	}
	start := floor
	if len(old.entries) > 0 {
		start = sum / float64(len(old.entries))
	}

	l := &list[K]{clock: clock(s.born), entries: make([]entry[K], 0, len(endpoints))}
	for _, ep := range endpoints {
		n := known[ep.Key]
		if n == nil {
			n = newNode(start, clock(s.born))
			known[ep.Key] = n
		}
		e := entry[K]{
			node: n, key: ep.Key, per: 1 / float64(max(ep.Weight, 1)), tier: ep.Tier, distance: distance(s.zone, ep.Zone),
		}
		if age := time.Since(ep.Since); age < slowStart {
			e.since, e.fresh = int64(ep.Since.Sub(s.born)), true
			l.warm.Store(max(l.warm.Load(), e.since+int64(slowStart)))
		}
		l.entries = append(l.entries, e)
	}
	l.entries = ordered(l.entries)
	l.group(s.zone, endpoints)
	s.list.Store(l)
}

// ordered sorts by tier and distance, of which there are few, and leaves the order within them. (A generic sort would be 2 KB of every
// program.)
func ordered[K comparable](entries []entry[K]) []entry[K] {
	rank := func(e *entry[K]) int { return int(e.tier)*distances + int(e.distance) }
	sorted := make([]entry[K], 0, len(entries))
	for done := -1; len(sorted) < len(entries); {
		next := math.MaxInt
		for i := range entries {
			if r := rank(&entries[i]); r > done {
				next = min(next, r)
			}
		}
		for i := range entries {
			if rank(&entries[i]) == next {
				sorted = append(sorted, entries[i])
			}
		}
		done = next
	}
	return sorted
}

// Failed ejects an endpoint, as [Picked.Failed] does, for one who did not pick it.
func (s *Set[K]) Failed(key K) {
	for _, e := range s.list.Load().entries {
		if e.key == key {
			e.eject(e.outage.Load(), e.clock.now())
		}
	}
}

// Avoid ejects an endpoint until it is called again with false, whatever becomes of requests meanwhile. It is for one who asks the
// endpoint itself how it is.
func (s *Set[K]) Avoid(key K, on bool) {
	for _, e := range s.list.Load().entries {
		if e.key == key {
			e.avoid(on)
		}
	}
}

// Len returns the number of endpoints.
func (s *Set[K]) Len() int { return len(s.list.Load().entries) }

// Pick chooses an endpoint that is not among those tried, and counts a request in flight
// to it until [Picked.Done], which the caller owes exactly once. It reports false when
// there is none left to try.
func (s *Set[K]) Pick(tried ...K) (Picked[K], bool) {
	l := s.list.Load()
	a := -1
	switch {
	case len(l.entries) <= 1:
	case len(l.groups) == 1 && l.warm.Load() == 0:
		g, r := &l.groups[0], s.rand()
		a = l.two(g, g.draw(r&(1<<32-1)), g.draw(r>>32), tried, false)
	default:
		a = l.near(s.rand, tried)
	}
	if a < 0 {
		if a = l.scan(s.rand, tried); a < 0 {
			return Picked[K]{}, false
		}
	}
	e := &l.entries[a]
	e.inflight.Add(1)
	return Picked[K]{Key: e.key, node: e.node, outage: e.outage.Load(), probe: e.claim()}, true
}

// scan looks at all endpoints, starting anywhere: the best usable one of the lowest
// tier that has any, else the one whose ejection ends first.
func (l *list[K]) scan(rand func() uint64, tried []K) int {
	best, bestOK, warming := -1, false, l.warming()
	n, from := len(l.entries), 0
	if n > 1 {
		from = int(rand() % uint64(n)) //nolint:gosec // less than n
	}
	for i := range n {
		i = (i + from) % n
		e := &l.entries[i]
		if slices.Contains(tried, e.key) {
			continue
		}
		ok := e.usable()
		switch {
		case best < 0, ok && !bestOK:
		case ok != bestOK:
			continue
		case ok:
			b := &l.entries[best]
			if e.tier > b.tier || e.tier == b.tier && !l.better(e, b, warming) {
				continue
			}
		case e.ejected() >= l.entries[best].ejected():
			continue
		}
		best, bestOK = i, ok
	}
	return best
}

func (l *list[K]) usable(i int, tried []K) bool {
	e := &l.entries[i]
	return e.usable() && (len(tried) == 0 || !slices.Contains(tried, e.key))
}

// better reports whether e promises to be done clearly sooner than o.
func (l *list[K]) better(e, o *entry[K], warming bool) bool {
	eper, oper := e.per, o.per
	if warming {
		eper, oper = eper/l.warmth(e), oper/l.warmth(o)
	}
	ecost, eload := e.cost(eper)
	ocost, oload := o.cost(oper)
	switch {
	case ecost*noise < ocost:
		return true
	case ocost*noise < ecost:
		return false
	}
	return eload < oload
}
