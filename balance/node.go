package balance

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// floor is the latency, in ns, below which endpoints count as equally fast: closer
	// than that, scheduling noise is larger than any difference worth following.
	floor = float64(2 * time.Millisecond)
	// ceiling bounds what one sample, a long poll for instance, can say.
	ceiling = float64(time.Second)
	// penalty bounds what rejections alone add up to. It is forgotten within two seconds: long enough to
	// keep traffic away, short enough that an endpoint which lagged behind a change of the rules comes back.
	penalty = 32 * floor
	// memory is how many times its own length a latency is remembered.
	memory = 8
	// noise is the ratio of costs that makes a difference.
	noise = 2

	minEject = time.Second
	maxEject = 30 * time.Second
)

// node is what is known of one endpoint. Times are ns since the set was made.
type node struct {
	clock    clock
	inflight atomic.Int64
	ewma     atomic.Uint64 // float64 bits, ns, within [floor, ceiling]
	sampled  atomic.Int64  // when ewma was set
	until    atomic.Int64  // ejected before this time; 0 when all is well
	probing  atomic.Bool   // one request is finding out whether an ejected endpoint is back

	outage atomic.Uint64 // counts ejections

	mu       sync.Mutex // serialises writes to all but inflight and probing
	failures uint       // ejections in a row
}

// clock is when the set was made that a node is from. Reading it costs more than all the rest of a pick, which
// therefore does so only for endpoints that are slow or ejected.
type clock time.Time

func (c clock) now() int64 { return int64(time.Since(time.Time(c))) }

func newNode(latency float64, c clock) *node {
	n := &node{clock: c}
	n.ewma.Store(math.Float64bits(latency))
	n.sampled.Store(c.now())
	return n
}

func (n *node) latency() float64 { return math.Float64frombits(n.ewma.Load()) }

// cost returns the promised time until one more request is done, in ns, and how much of the
// endpoint's capacity is in use.
func (n *node) cost(per float64) (cost, load float64) {
	lat := n.latency()
	inflight := n.inflight.Load()
	if inflight == 0 && lat > floor {
		lat = max(floor, lat*n.remembered(lat, n.clock.now()))
	}
	load = float64(inflight) * per
	return lat * (load + 1), load
}

// remembered returns how much of a latency still counts now, within [0, 1].
func (n *node) remembered(lat float64, now int64) float64 {
	return math.Exp(-float64(max(now-n.sampled.Load(), 0)) / (memory * lat))
}

func (n *node) usable() bool {
	until := n.until.Load()
	return until == 0 || n.clock.now() >= until && !n.probing.Load()
}

// ejected is how much longer the ejection lasts.
func (n *node) ejected() int64 { return n.until.Load() - n.clock.now() }

// claim makes the request that is about to start the probe, if the endpoint needs one.
func (n *node) claim() bool {
	until := n.until.Load()
	return until != 0 && n.clock.now() >= until && n.probing.CompareAndSwap(false, true)
}

// sample records a latency in ns. Of a rise it believes half at once.
func (n *node) sample(d float64, now int64) {
	d = min(max(d, floor), ceiling)
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.latency()
	w := n.remembered(old, now)
	n.set(max(old*w+d*(1-w), (old+d)/2), now)
}

// reject makes the endpoint less attractive although it answered, however fast.
func (n *node) reject(d float64, now int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	lat := n.latency()
	n.set(min(max(lat, min(2*lat, penalty), d), ceiling), now)
}

func (n *node) set(latency float64, now int64) {
	n.ewma.Store(math.Float64bits(latency))
	n.sampled.Store(now)
}

// recover ends the ejection, unless the endpoint failed after the request that succeeded was
// picked.
func (n *node) recover(outage uint64) {
	if n.until.Load() == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if outage == n.outage.Load() {
		n.failures = 0
		n.until.Store(0)
	}
}

// eject is called for a request that was picked during the given outage.
func (n *node) eject(outage uint64, now int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if outage != n.outage.Load() {
		return // the same outage, seen by another request
	}
	n.outage.Add(1)
	d := min(minEject<<min(n.failures, 16), maxEject)
	n.failures++
	n.until.Store(now + int64(d))
}
