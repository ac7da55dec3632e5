package balance

import "time"

// Picked is one use of an endpoint. Report one of Succeeded, Rejected and Failed as soon as
// the outcome is known, then Done; without a report, nothing is learnt (the caller gave up, for
// example). Rejected and Failed may also follow one of the others, when an answer breaks off.
type Picked[K comparable] struct {
	// Key is the endpoint's.
	Key K

	node   *node
	outage uint64
	probe  bool
}

// Succeeded says that the endpoint answered. The latency should be the time to the first byte
// of the answer, without connection set-up; 0 is "not measured". An ejected endpoint is taken back.
func (p *Picked[K]) Succeeded(latency time.Duration) {
	p.Reached(latency)
	p.node.succeed()
}

// Reached is like Succeeded, before it is known how the answer ends. Of that, one of the three should follow.
func (p *Picked[K]) Reached(latency time.Duration) {
	if latency > 0 {
		p.node.sample(float64(latency), p.node.clock.now())
	}
	p.node.recover(p.outage)
	p.unprobe()
}

// Rejected says that the endpoint answered, with a denial or an error of its own: it is
// alive, but must not attract traffic by being quick to refuse. The more of its answers are like that, the less it gets.
func (p *Picked[K]) Rejected(latency time.Duration) {
	p.node.reject(float64(latency), p.node.clock.now())
	p.Reached(0)
}

// Failed says that the endpoint could not be reached, or broke off: it is ejected. Failures of
// requests that were in flight together count once.
func (p *Picked[K]) Failed() {
	p.node.eject(p.outage, p.node.clock.now())
	p.unprobe()
}

// Done ends the use: the request, or connection, is no longer in flight. It must be called exactly once.
func (p *Picked[K]) Done() {
	p.node.inflight.Add(-1)
	p.unprobe()
}

func (p *Picked[K]) unprobe() {
	if p.probe {
		p.probe = false
		p.node.probing.Store(false)
	}
}
