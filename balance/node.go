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
	// One outcome counts for a quarter of the health, which has a least value. Illness is forgotten e-fold in a second: long enough to
	// keep traffic away, short enough that an endpoint which lagged behind a change of the rules comes back.
	outcome     = 0.25
	leastHealth = 1. / 32
	healing     = float64(time.Second)
	// memory is how many times its own length a latency is remembered.
	memory = 8
	// noise is the ratio of costs that makes a difference.
	noise = 2

	minEject = time.Second
	maxEject = 30 * time.Second

	// held is the until of an endpoint that is avoided until further notice.
	held = math.MaxInt64
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

	// ill is, as float64 bits, which part of the outcomes of late were rejections, when judged; 0 is perfect health, the usual case.
	ill    atomic.Uint64
	judged atomic.Int64

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

// cost returns the promised time until one more request is done well, in ns, and how much of the
// endpoint's capacity is in use. Both grow with the square of 1/health: in a closed loop an endpoint that rejects a part of its requests
// at once is free again as much sooner (Little's law), so that the first power would give it its fair share of requests, and the
// second one leaves it with the healthy part of that.
func (n *node) cost(per float64) (cost, load float64) {
	lat := n.latency()
	inflight := n.inflight.Load()
	if inflight == 0 && lat > floor {
		lat = max(floor, lat*n.remembered(lat, n.clock.now()))
	}
	load = float64(inflight) * per
	if ill := n.illness(); ill > 0 {
		times := 1 / ((1 - ill) * (1 - ill))
		return lat * (load + 1) * times, load * times
	}
	return lat * (load + 1), load
}

// illness is what is not forgotten of ill. It reads the clock only if there is some.
func (n *node) illness() float64 {
	bits := n.ill.Load()
	if bits == 0 {
		return 0
	}
	return math.Float64frombits(bits) * math.Exp(-float64(max(n.clock.now()-n.judged.Load(), 0))/healing)
}

// judge takes an outcome into the health. The caller holds mu.
func (n *node) judge(well bool) {
	ill := n.illness()
	if ill *= 1 - outcome; !well {
		ill = min(ill+outcome, 1-leastHealth)
	}
	if ill < 0.01 {
		ill = 0
	}
	n.judged.Store(n.clock.now())
	n.ill.Store(math.Float64bits(ill))
}

// succeed takes a success into the health, of which the usual case has nothing to gain.
func (n *node) succeed() {
	if n.ill.Load() != 0 {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.judge(true)
	}
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

// reject makes the endpoint less attractive although it answered. That it did so fast says nothing good of it.
func (n *node) reject(d float64, now int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if d > n.latency() {
		n.set(min(d, ceiling), now)
	}
	n.judge(false)
}

func (n *node) set(latency float64, now int64) {
	n.ewma.Store(math.Float64bits(latency))
	n.sampled.Store(now)
}

// recover ends the ejection, unless the endpoint failed after the request that succeeded was
// picked.
func (n *node) recover(outage uint64) {
	if until := n.until.Load(); until == 0 || until == held {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if outage == n.outage.Load() && n.until.Load() != held {
		n.failures = 0
		n.until.Store(0)
	}
}

// eject is called for a request that was picked during the given outage.
func (n *node) eject(outage uint64, now int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if outage != n.outage.Load() || n.until.Load() == held {
		return // the same outage, seen by another request
	}
	n.outage.Add(1)
	d := min(minEject<<min(n.failures, 16), maxEject)
	n.failures++
	n.until.Store(now + int64(d))
}

// avoid ejects the endpoint until it is called again, or ends that.
func (n *node) avoid(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case on:
		n.until.Store(held)
	case n.until.Load() == held:
		n.failures = 0
		n.until.Store(0)
	}
}
