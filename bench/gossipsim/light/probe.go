package light

import "time"

// A probe is what a member is waiting for (memberlist's probeNode).
type probe struct {
	number    uint32
	target    uint16
	waiting   bool
	contacted bool // by the fallback stream
	nacks     int
	expected  int
	started   time.Duration
}

// A relay is a probe that a member makes for another.
type relay struct {
	by, requester uint16
	number        uint32 // of the requester's probe
	waiting       bool
}

// nextTick is the first time after now of a ticker that runs since the process has started.
func (m *process) nextTick(now, every time.Duration) time.Duration {
	return m.started + ((now-m.started)/every+1)*every
}

// probe looks for the next member to probe, and asks it.
func (p *Pool) probe(m *process) {
	for checked := 0; ; checked++ {
		if checked >= len(m.nodes) {
			p.after(m.nextTick(p.now, p.list.ProbeInterval)-p.now, event{kind: evProbe, a: m.id})
			return
		}
		if m.at >= len(m.nodes) {
			p.reset(m)
			m.at = 0
			continue
		}
		target := m.nodes[m.at]
		m.at++
		if target != m.id && m.row[target].lives() {
			p.ask(m, target)
			return
		}
	}
}

func (p *Pool) ask(m *process, target uint16) {
	m.probe = probe{number: m.probe.number + 1, target: target, waiting: true, started: p.now}
	e := event{kind: evPing, a: m.id, b: target, x: m.probe.number}
	if w := m.row[target]; w.state() == alive {
		p.sendWithNews(m, e, p.sizes.ping)
	} else { // it is told what it has to refute, and nothing else
		e.batch = p.newBatch()
		p.batches[e.batch] = append(p.batches[e.batch], newItem(0, target, about(suspect, w.inc())))
		p.send(e, crcSize+compoundSize+2*perPart+p.sizes.ping+p.sizes.accusation)
	}
	p.after(p.list.ProbeTimeout, event{kind: evUnheard, a: m.id, x: m.probe.number})
	p.after(p.list.ProbeInterval*time.Duration(m.awareness+1), event{kind: evProbeEnd, a: m.id, x: m.probe.number})
}

// unheard asks others to ask, and tries a stream.
func (p *Pool) unheard(m *process, number uint32) {
	pr := &m.probe
	if !pr.waiting || pr.number != number {
		return
	}
	for _, o := range p.someNodes(m, p.list.IndirectChecks, func(o uint16) bool { return o != pr.target && m.row[o].state() == alive }) {
		pr.expected++
		p.sendWithNews(m, event{kind: evIndirect, a: m.id, b: o, y: pr.target, x: number}, p.sizes.indirect)
	}
	if p.list.DisableTcpPings {
		return
	}
	deadline := pr.started + p.list.ProbeInterval*time.Duration(m.awareness+1)
	if wait, ok := p.dial(m, pr.target, deadline-p.now); ok {
		p.after(wait, event{kind: evFallback, a: m.id, b: pr.target, x: number})
	}
}

func (p *Pool) fallback(m, target *process, number uint32) {
	if !target.up {
		return
	}
	p.traffic.Bytes += int64(streamed(p.sizes.ping, true) + streamed(p.sizes.ack, false))
	if m.probe.number == number {
		m.probe.contacted = true
	}
}

func (p *Pool) probeEnd(m *process, number uint32) {
	pr := &m.probe
	if !pr.waiting || pr.number != number {
		return
	}
	switch {
	case pr.contacted:
		p.probed(m, -1)
	case pr.expected > 0:
		p.probed(m, max(0, pr.expected-pr.nacks))
	default:
		p.probed(m, 1)
	}
	if !pr.contacted {
		p.hearSuspect(m, pr.target, m.row[pr.target].inc())
	}
}

// probed ends the probe under way. The next one begins with the next tick, of which one may have been missed.
func (p *Pool) probed(m *process, delta int) {
	m.probe.waiting = false
	m.aware(p, delta)
	next := max(p.now, m.nextTick(m.probe.started, p.list.ProbeInterval))
	p.after(next-p.now, event{kind: evProbe, a: m.id})
}

// aware is memberlist's awareness of how m fares itself.
func (m *process) aware(p *Pool, delta int) {
	m.awareness = min(max(0, m.awareness+delta), p.list.AwarenessMaxMultiplier-1)
}

// reset ends a round of probes: those dead for long are taken out, and the order is a new one.
func (p *Pool) reset(m *process) {
	kept := m.nodes[:0]
	for _, o := range m.nodes {
		switch w := m.row[o]; {
		case w.lives() || w&cold == 0:
			kept = append(kept, o)
		case p.view(o, w) == suspected:
			m.row[o] = w&^stateMask | reaped
		default:
			m.row[o] = w & peer
		}
	}
	m.nodes = kept
	p.random.Shuffle(len(kept), func(i, j int) { kept[i], kept[j] = kept[j], kept[i] })
}

// someNodes chooses up to k others (memberlist's kRandomNodes).
func (p *Pool) someNodes(m *process, k int, want func(uint16) bool) []uint16 {
	some, n := p.some[:0], len(m.nodes)
	if n < 3*k {
		for _, i := range p.random.Perm(n) {
			if o := m.nodes[i]; len(some) < k && o != m.id && want(o) {
				some = append(some, o)
			}
		}
		p.some = some
		return some
	}
search:
	for range 3 * n {
		if len(some) == k {
			break
		}
		o := m.nodes[p.random.IntN(n)]
		if o == m.id || !want(o) {
			continue
		}
		for _, taken := range some {
			if taken == o {
				continue search
			}
		}
		some = append(some, o)
	}
	p.some = some
	return some
}

// gossip sends news to some members.
func (p *Pool) gossip(m *process) {
	if m.queue.length == 0 {
		m.ticking = false
		return
	}
	p.after(p.list.GossipInterval, event{kind: evGossip, a: m.id})
	for _, o := range p.someNodes(m, p.list.GossipNodes, func(o uint16) bool {
		w := m.row[o]
		return w.lives() || w.state() == dead && w&cold == 0
	}) {
		batch := p.newBatch()
		items, size := p.take(m, p.batches[batch], p.list.UDPBufferSize-compoundSize)
		if p.batches[batch] = items; len(items) == 0 {
			p.freeBatch(batch)
			return
		}
		if size += crcSize + compoundSize; len(items) == 1 {
			size -= compoundSize + perPart
		}
		p.send(event{kind: evNews, a: m.id, b: o, batch: batch}, size)
	}
}

// sendWithNews sends a message, and news along with it.
func (p *Pool) sendWithNews(m *process, e event, size int) {
	if m.queue.length > 0 {
		e.batch = p.newBatch()
		items, more := p.take(m, p.batches[e.batch], p.list.UDPBufferSize-size-compoundSize)
		if p.batches[e.batch] = items; len(items) == 0 {
			p.freeBatch(e.batch)
			e.batch = 0
		} else {
			size += compoundSize + perPart + more
		}
	}
	p.send(e, size)
}

// arrive is when a packet does.
func (p *Pool) arrive(m *process, e event) {
	if m.up {
		switch e.kind {
		case evPing:
			p.sendWithNews(m, event{kind: evAck, a: m.id, b: e.a, x: e.x, relayed: e.relayed}, p.sizes.ack)
		case evIndirect:
			p.relay(m, e)
		case evAck:
			p.acknowledged(m, e)
		case evNackPacket:
			if m.probe.waiting && m.probe.number == e.x {
				m.probe.nacks++
			}
		}
		if e.batch > 0 {
			for _, i := range p.batches[e.batch] {
				p.hear(m, i.subject(), i.about())
			}
			p.traffic.Heard += int64(len(p.batches[e.batch]))
		}
	}
	if e.batch > 0 {
		p.freeBatch(e.batch)
	}
}

// relay probes for another. Strangers are not: see package guard.
func (p *Pool) relay(m *process, e event) {
	if m.row[e.y]&^peer == unknown {
		return
	}
	number := p.newRelay(relay{m.id, e.a, e.x, true})
	p.sendWithNews(m, event{kind: evPing, a: m.id, b: e.y, x: number, relayed: true}, p.sizes.ping)
	p.after(p.list.ProbeTimeout, event{kind: evNack, a: m.id, x: number})
}

// nack ends a relay: no answer takes as long as that.
func (p *Pool) nack(number uint32) {
	p.freeRelays = append(p.freeRelays, number)
	if r := &p.relays[number]; r.waiting {
		p.sendWithNews(p.procs[r.by], event{kind: evNackPacket, a: r.by, b: r.requester, x: r.number}, p.sizes.nack)
	}
}

func (p *Pool) newRelay(r relay) uint32 {
	if n := len(p.freeRelays); n > 0 {
		number := p.freeRelays[n-1]
		p.freeRelays = p.freeRelays[:n-1]
		p.relays[number] = r
		return number
	}
	p.relays = append(p.relays, r)
	return uint32(len(p.relays) - 1) //nolint:gosec // as many as are under way
}

func (p *Pool) acknowledged(m *process, e event) {
	if e.relayed {
		if r := &p.relays[e.x]; r.waiting {
			r.waiting = false
			p.sendWithNews(m, event{kind: evAck, a: m.id, b: r.requester, x: r.number}, p.sizes.ack)
		}
		return
	}
	if m.probe.waiting && m.probe.number == e.x {
		p.probed(m, -1)
	}
}
