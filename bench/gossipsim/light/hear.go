package light

import (
	"math"
	"time"
)

// hear takes a message in (memberlist's aliveNode, suspectNode and deadNode).
func (p *Pool) hear(m *process, subject uint16, w word) {
	switch w.state() {
	case alive:
		p.hearAlive(m, subject, w.inc())
	case suspect:
		p.hearSuspect(m, subject, w.inc())
	case dead, left:
		p.hearDead(m, subject, w)
	}
}

func (p *Pool) hearAlive(m *process, subject, inc uint16) {
	w := m.row[subject]
	if w.known() && inc <= w.inc() {
		return
	}
	if subject == m.id {
		return // nobody else knows of a later one
	}
	if !w.known() {
		p.meet(m, subject)
	}
	w = about(alive, inc)
	p.set(m, subject, w)
	p.queueMessage(m, subject, w)
}

// meet puts a subject somewhere into the order in which m probes.
func (p *Pool) meet(m *process, subject uint16) {
	n := len(m.nodes)
	m.nodes = append(m.nodes, subject)
	if n > 0 {
		at := p.random.IntN(n)
		m.nodes[at], m.nodes[n] = m.nodes[n], m.nodes[at]
	}
}

func (p *Pool) hearSuspect(m *process, subject, inc uint16) {
	w := m.row[subject]
	if w.state() != alive || inc < w.inc() { // who is suspected already is so until its time is over: no confirmations are waited for, see New
		return
	}
	if subject == m.id {
		p.refute(m, inc)
		return
	}
	w = p.later(w, suspect, inc)
	p.queueMessage(m, subject, w)
	p.set(m, subject, w)
	m.suspicions.add(deadline{p.now + p.suspicionTimeout(len(m.nodes)), subject, w})
	p.watch(m, &m.suspicions, evSuspicion)
}

// later is what w becomes in another state: the record stays what it was.
func (p *Pool) later(w word, state word, inc uint16) word {
	lag := min(w.lag()+inc-w.inc(), maxLag)
	return about(state, inc) | word(lag)<<lagShift
}

func (p *Pool) hearDead(m *process, subject uint16, what word) {
	w, inc := m.row[subject], what.inc()
	if !w.lives() || inc < w.inc() {
		return
	}
	if subject == m.id {
		p.refute(m, inc)
		return
	}
	w = p.later(w, what.state(), inc)
	p.queueMessage(m, subject, w)
	p.set(m, subject, w)
	m.deaths.add(deadline{p.now + p.list.GossipToTheDeadTime, subject, w})
	m.burials.add(deadline{p.now + p.suspectTTL, subject, w})
	p.watch(m, &m.deaths, evCold)
	p.watch(m, &m.burials, evBurial)
}

// refute answers an accusation.
func (p *Pool) refute(m *process, accused uint16) {
	if m.gone {
		return
	}
	p.raise(m, max(m.row[m.id].inc(), accused)+1)
	m.aware(p, 1)
}

// raise has m announce its record with a later incarnation.
func (p *Pool) raise(m *process, inc uint16) {
	for len(m.versions) <= int(inc) {
		m.versions = append(m.versions, m.announced)
	}
	p.setOwn(m, about(alive, inc))
	p.queueMessage(m, m.id, about(alive, inc))
}

func (p *Pool) queueMessage(m *process, subject uint16, w word) {
	if subject == m.id {
		m.pending = true
	}
	m.queue.add(subject, w, p.class(subject, w))
	if !m.ticking {
		m.ticking = true
		p.after(m.nextTick(p.now, p.list.GossipInterval)-p.now, event{kind: evGossip, a: m.id})
	}
}

// merge takes in what another member knew (memberlist's mergeState).
func (p *Pool) merge(m *process, subject uint16, theirs word) {
	switch theirs.state() {
	case alive:
		p.hearAlive(m, subject, theirs.inc())
	case left:
		p.hearDead(m, subject, about(left, theirs.inc()))
	case dead, suspect:
		p.hearSuspect(m, subject, theirs.inc())
	}
}

// suspicionTimeout is memberlist's.
func (p *Pool) suspicionTimeout(n int) time.Duration {
	scale := math.Max(1, math.Log10(math.Max(1, float64(n))))
	return time.Duration(p.list.SuspicionMult) * time.Duration(scale*1000) * p.list.ProbeInterval / 1000
}

// watch has an event look at the first of a line.
func (p *Pool) watch(m *process, l *line, what eventKind) {
	if !l.armed && len(l.all) > 0 {
		l.armed = true
		p.after(l.all[0].at-p.now, event{kind: what, a: m.id})
	}
}

// expireSuspicions holds those dead who have not answered.
func (p *Pool) expireSuspicions(m *process) {
	for d, ok := m.suspicions.due(p.now); ok; d, ok = m.suspicions.due(p.now) {
		if m.row[d.subject]&sameMask == d.word&sameMask {
			p.hearDead(m, d.subject, about(dead, d.word.inc()))
		}
	}
}

// cool notes who has been dead for so long that it is told nothing any more.
func (p *Pool) cool(m *process) {
	for d, ok := m.deaths.due(p.now); ok; d, ok = m.deaths.due(p.now) {
		if w := m.row[d.subject]; w&sameMask == d.word&sameMask {
			m.row[d.subject] = w | cold
		}
	}
}

// bury drops the endpoints of the dead, unless a service would lose too many: then they are kept for long.
func (p *Pool) bury(m *process, l *line) {
	for d, ok := l.due(p.now); ok; d, ok = l.due(p.now) {
		w := m.row[d.subject]
		if s := w.state(); s != dead && s != left && s != reaped || w.inc() != d.word.inc() || w&forgotten != 0 {
			continue
		}
		if l == &m.burials && p.needed(m, d.subject) {
			d.at += p.patience - p.suspectTTL
			m.kept.add(d)
			p.watch(m, &m.kept, evKept)
			continue
		}
		p.set(m, d.subject, w|forgotten)
		if w.state() == reaped {
			m.row[d.subject] &= peer
		}
	}
}

// needed reports whether more of those who announce the subject's service are dead than live.
func (p *Pool) needed(m *process, subject uint16) bool {
	alive, dead := 0, 0
	for _, o := range p.services[p.procs[subject].index/p.cfg.PerService] {
		switch {
		case o == m.id:
			alive++
		case p.view(o, m.row[o]) == usable:
			alive++
		case p.view(o, m.row[o]) == suspected:
			dead++
		}
	}
	return dead > alive
}
