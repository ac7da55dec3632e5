package light

import "time"

// An eventKind says what happens.
type eventKind uint8

const (
	evStart      eventKind = iota // of the process a
	evTimeout                     // of Join
	evGossip                      // a's next round
	evProbe                       // a probes the next one
	evUnheard                     // a's probe x was not answered in time
	evProbeEnd                    // a's probe x is over
	evNack                        // the time of relay x is over
	evPing                        // packets, from a to b; x is the probe, or the relay with relayed set
	evIndirect                    // the target is y
	evAck                         //
	evNackPacket                  //
	evNews                        //
	evSuspicion                   // the first of a's lines is due
	evCold
	evBurial
	evKept
	evSeek     // a looks for seeds and peers
	evExchange // a is connected with b
	evFailed   // a could not reach b
	evSync     // a compares with somebody
	evSynced   // a is connected with b, to compare
	evPush     // and once more, to tell what b lacks
	evFallback // a is connected with b, to ping it
)

// An event happens to a process.
type event struct {
	at      time.Duration
	x       uint32
	batch   int32 // of messages in a packet, 0 for none
	a, b, y uint16
	kind    eventKind
	relayed bool
}

// resolution is the width of a slot of the wheel. All that is due in one happens at its end, in the order in which it was foreseen.
const (
	resolution = 100 * time.Microsecond
	slots      = 1 << 16
)

// A wheel holds events by time. What is more than a turn away goes round again.
type wheel struct {
	slots [slots][]event
	spare [][]event
	next  int // the slot that the time has come for
	held  int
}

func (w *wheel) put(e event) {
	at := min(max(int((e.at+resolution-1)/resolution), w.next), w.next+slots-2) // one less than a turn, for step
	s := &w.slots[at%slots]
	if *s == nil && len(w.spare) > 0 {
		*s = w.spare[len(w.spare)-1]
		w.spare = w.spare[:len(w.spare)-1]
	}
	*s = append(*s, e)
	w.held++
}

// after has an event happen after a time.
func (p *Pool) after(d time.Duration, e event) {
	e.at = p.now + d
	p.wheel.put(e)
}

// Run lets d pass.
func (p *Pool) Run(d time.Duration) {
	end := p.now + d
	for p.step(end) {
	}
	p.now = end
}

// until lets time pass until done, at most limit.
func (p *Pool) until(limit time.Duration, done func() bool) {
	for end := p.now + limit; !done(); {
		if !p.step(end) {
			p.now = end
			return
		}
	}
}

// step has the events of the next slot happen. It returns false at the end.
func (p *Pool) step(end time.Duration) bool {
	w := &p.wheel
	at := time.Duration(w.next) * resolution
	if at >= end {
		return false
	}
	p.now = max(p.now, at)
	s := &w.slots[w.next%slots]
	for i := 0; i < len(*s); i++ { // it may grow meanwhile
		e := (*s)[i]
		w.held--
		if e.at > at {
			w.next++ // so that it does not come back to this slot
			w.put(e)
			w.next--
			continue
		}
		p.happen(e)
	}
	if *s != nil {
		w.spare = append(w.spare, (*s)[:0])
		*s = nil
	}
	w.next++
	return true
}

// happen is the one place where anything does.
func (p *Pool) happen(e event) {
	m := p.procs[e.a]
	switch e.kind {
	case evPing, evIndirect, evAck, evNackPacket, evNews:
		p.arrive(p.procs[e.b], e)
		return
	case evStart:
		p.begin(m)
		return
	}
	if !m.up {
		return
	}
	switch e.kind {
	case evTimeout:
		p.register(m)
	case evGossip:
		p.gossip(m)
	case evProbe:
		p.probe(m)
	case evUnheard:
		p.unheard(m, e.x)
	case evProbeEnd:
		p.probeEnd(m, e.x)
	case evNack:
		p.nack(e.x)
	case evSuspicion:
		m.suspicions.armed = false
		p.expireSuspicions(m)
		p.watch(m, &m.suspicions, evSuspicion)
	case evCold:
		m.deaths.armed = false
		p.cool(m)
		p.watch(m, &m.deaths, evCold)
	case evBurial:
		m.burials.armed = false
		p.bury(m, &m.burials)
		p.watch(m, &m.burials, evBurial)
	case evKept:
		m.kept.armed = false
		p.bury(m, &m.kept)
		p.watch(m, &m.kept, evKept)
	case evSeek:
		p.seek(m)
	case evExchange:
		p.exchange(m, p.procs[e.b])
	case evFailed:
		p.tried(m, e.b, false)
	case evSync:
		if e.x == m.syncs {
			p.sync(m)
		}
	case evSynced:
		p.synced(m, p.procs[e.b])
	case evPush:
		p.push(m, p.procs[e.b])
	case evFallback:
		p.fallback(m, p.procs[e.b], e.x)
	}
}
