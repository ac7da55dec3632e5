package balance

import (
	"math"
	"sort"
	"strings"
)

// distances: the caller's zone, its region, elsewhere.
const distances = 3

// distance is how far a zone is from the caller's.
func distance(own, zone string) uint8 {
	if own == "" || own == zone {
		return 0
	}
	region, _, ok := strings.Cut(own, "/")
	if other, _, _ := strings.Cut(zone, "/"); ok && other == region {
		return 1
	}
	return 2
}

// spare is by how much endpoints are taken to be able to serve more than their fair share: the overprovisioning factor of
// Envoy's priority levels, with its default of 140 %
// (envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/priority).
const spare = 1.4

// Shares returns which part of the requests goes to endpoints in the caller's zone, in the rest of its region, and elsewhere; the
// parts add up to 1. The arguments are the weight that is there at each distance, and how many zones it is spread over. The
// caller's own zone counts, even if nothing is there.
//
// The zone gets all requests as long as it has its fair part of the whole weight, or a little less: a 1.4th. Below that, requests
// spill in proportion to what is missing, so that no single endpoint that comes or goes moves more than its part; the region relates to the
// rest of the world as the zone does to the region. It is taken for granted that callers are spread over the zones evenly.
func Shares(weights [distances]float64, zones [distances]int) [distances]float64 {
	var total float64
	var all int
	for d := range distances {
		total += weights[d]
		all += zones[d]
	}
	var shares [distances]float64
	if total <= 0 {
		return shares
	}
	var within, given float64
	var counted int
	for d := range distances {
		within += weights[d]
		counted += zones[d]
		upto := 1.0
		if within < total {
			upto = min(1, spare*within*float64(all)/(total*float64(max(counted, 1))))
		}
		if weights[d] > 0 {
			shares[d] = max(0, upto-given)
			given += shares[d]
		}
	}
	return shares
}

// group are the entries of the lowest tier at one distance.
type group struct {
	from, to int      // in the list's entries
	upto     []uint64 // cumulative weights; nil when all are equal
	share    uint64   // cumulative, of 1<<32
}

// group prepares weighted draws from the lowest tier.
func (l *list[K]) group(own string, endpoints []Endpoint[K]) {
	if len(l.entries) == 0 {
		return
	}
	var weights [distances]float64
	for i := range l.entries {
		e := &l.entries[i]
		if e.tier != l.entries[0].tier {
			break
		}
		if i == 0 || e.distance != l.entries[i-1].distance {
			l.groups = append(l.groups, group{from: i})
		}
		l.groups[len(l.groups)-1].to = i + 1
		weights[e.distance] += 1 / e.per
	}
	var zones [distances]int
	seen := map[string]bool{}
	for _, zone := range append([]string{own}, zonesOf(endpoints, l.entries[0].tier)...) {
		if !seen[zone] {
			seen[zone] = true
			zones[distance(own, zone)]++
		}
	}
	shares := Shares(weights, zones)
	sum := 0.0
	for i := range l.groups {
		g := &l.groups[i]
		g.weigh(func(i int) float64 { return 1 / l.entries[i].per })
		sum += shares[l.entries[g.from].distance]
		g.share = uint64(sum * (1 << 32))
	}
	l.groups[len(l.groups)-1].share = 1 << 32
}

func zonesOf[K comparable](endpoints []Endpoint[K], tier uint8) (zones []string) {
	for _, ep := range endpoints {
		if ep.Tier == tier {
			zones = append(zones, ep.Zone)
		}
	}
	return zones
}

func (g *group) weigh(weight func(int) float64) {
	equal := true
	var total uint64
	for i := g.from; i < g.to; i++ {
		total += uint64(math.Round(weight(i)))
		g.upto = append(g.upto, total)
		equal = equal && weight(i) == weight(g.from)
	}
	if equal {
		g.upto = nil
	}
}

// draw returns an entry's index, by weight, from 32 random bits.
func (g *group) draw(r uint64) int {
	n := g.to - g.from
	if g.upto == nil {
		return g.from + int(r*uint64(n)>>32) //nolint:gosec // less than n
	}
	r = r * g.upto[n-1] >> 32
	return g.from + sort.Search(n, func(i int) bool { return g.upto[i] > r })
}

// near returns the better one of two draws from the same group. When neither may be used, the next group has its turn: the
// more of a zone is ejected, the more often that happens. It returns -1 when no group has any.
func (l *list[K]) near(rand func() uint64, tried []K) int {
	at := 0
	if len(l.groups) > 1 {
		for r := rand() >> 32; r >= l.groups[at].share; {
			at++
		}
	}
	warming := l.warming()
	for range l.groups {
		g := &l.groups[at]
		var i int
		if warming {
			i = l.two(g, l.ripe(g, rand), l.ripe(g, rand), tried, true)
		} else {
			r := rand()
			i = l.two(g, g.draw(r&(1<<32-1)), g.draw(r>>32), tried, false)
		}
		if i >= 0 {
			return i
		}
		at = (at + 1) % len(l.groups)
	}
	return -1
}

// two compares two entries of a group. It returns -1 when neither may be used.
func (l *list[K]) two(g *group, a, b int, tried []K, warming bool) int {
	if a == b {
		// One step on instead of drawing again: the neighbour is as arbitrary as any, and
		// the pair must differ for two choices to be two.
		if b++; b == g.to {
			b = g.from
		}
	}
	aok, bok := l.usable(a, tried), l.usable(b, tried)
	switch {
	case aok && bok:
		if a != b && l.better(&l.entries[b], &l.entries[a], warming) {
			return b
		}
		return a
	case aok:
		return a
	case bok:
		return b
	}
	return -1
}
