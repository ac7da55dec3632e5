package light

import (
	"time"

	"github.com/intramesh/mesh/internal/pace"
)

// Now is the virtual time since the first member may have started.
func (p *Pool) Now() time.Duration { return p.now }

// Traffic returns what was sent so far.
func (p *Pool) Traffic() Traffic { return p.traffic }

// Knows counts the endpoints that member i can use, its own included, and those that it holds for gone.
func (p *Pool) Knows(i int) (usableNow, suspects int) {
	m := p.members[i]
	if m.announced != announcesNothing {
		usableNow = 1
	}
	return m.usable + usableNow, m.suspected
}

// Announce has member i change its record, which gets this version. Versions begin at 2.
func (p *Pool) Announce(i int, version uint16) { p.announce(p.members[i], version) }

// Sees reports whether member i can use what member j announces, and knows that version of it or a later one.
func (p *Pool) Sees(i, j int, version uint16) bool {
	m, subject := p.members[i], p.members[j].id
	if m.id == subject {
		return m.announced >= version
	}
	w := m.row[subject]
	return p.view(subject, w) == usable && p.version(subject, w) >= version
}

// A Victim is a process that was killed.
type Victim uint16

// Kill ends the process of member i without a word.
func (p *Pool) Kill(i int) Victim {
	m := p.members[i]
	p.end(m)
	return Victim(m.id)
}

// Lost reports whether member i knows that a victim serves nobody.
func (p *Pool) Lost(i int, v Victim) bool {
	return p.view(uint16(v), p.members[i].row[v]) != usable
}

// Replace starts a new process in the place of that of member i, and waits until it has registered.
func (p *Pool) Replace(i int) {
	m := p.newProcess(i)
	for _, o := range p.procs {
		if o.up {
			o.row = append(o.row, unknown)
		}
	}
	p.members[i] = m
	p.begin(m)
	p.until(pace.JoinTimeout, func() bool { return m.announced != announcesNothing })
}

// Restart has member i withdraw and say goodbye, as gossip.Member's Leave does, and then replaces it.
func (p *Pool) Restart(i int) {
	m := p.members[i]
	for range pace.Withdrawals {
		p.announce(m, withdrawn)
		p.until(pace.LeavePatience, func() bool { return !m.pending })
		p.Run(pace.PassOnRounds * p.list.GossipInterval)
	}
	goodbye := about(left, m.row[m.id].inc())
	p.setOwn(m, goodbye)
	m.gone = true
	p.queueMessage(m, m.id, goodbye)
	p.until(pace.LeavePatience, func() bool { return !m.pending })
	p.end(m)
	p.Replace(i)
}

func (p *Pool) end(m *process) {
	m.up = false
	for o, w := range m.row { // what it held for dead is not held so by it any more
		if id := narrow(o); id != m.id && p.view(id, w) == suspected {
			p.procs[id].heldDead--
		}
	}
	m.row, m.nodes, m.queue, m.peers = nil, nil, queue{}, nil
	m.suspicions, m.deaths, m.burials, m.kept = line{}, line{}, line{}, line{}
}

// HeldDead returns how many others hold member i for dead.
func (p *Pool) HeldDead(i int) int { return p.members[i].heldDead }

// SetLoss has a part of all datagrams and connection requests lost.
func (p *Pool) SetLoss(share float64) { p.loss = share }

// Split cuts the members from this index on off from the others; 0 heals.
func (p *Pool) Split(index int) { p.cut = index }

// Streamed returns what the member that sent most has sent on streams, in bytes.
func (p *Pool) Streamed() (most int64) {
	for _, m := range p.members {
		most = max(most, m.streamed)
	}
	return most
}
