package light

import "time"

// A word is all that one member knows of another, its subject:
//
//	incarnation 16 | lag 5 | flags | state 3
//
// The lag is how many incarnations ago the subject announced what is known of its record: an accusation raises the incarnation, and brings no record.
type word uint32

// States, in memberlist's order. What is reaped is unknown to memberlist, and still kept by the pool of package gossip.
const (
	unknown word = iota
	alive
	suspect
	dead
	left
	reaped
	stateMask = 7
)

const (
	cold      word = 1 << 3 // held dead for so long that it is told nothing any more
	forgotten word = 1 << 4 // its endpoints are dropped
	peer      word = 1 << 5 // among the peers that are remembered
	lagShift       = 11
	maxLag         = 31
	incShift       = 16
	sameMask  word = (1<<16-1)<<incShift | stateMask // what a message is about
)

func (w word) state() word { return w & stateMask }
func (w word) inc() uint16 { return uint16(w >> incShift) }
func (w word) lag() uint16 { return uint16(w >> lagShift & maxLag) }

// known reports whether memberlist has the subject in its table.
func (w word) known() bool { s := w.state(); return s >= alive && s <= left }

// lives reports whether the subject is held to live, suspected or not.
func (w word) lives() bool { s := w.state(); return s == alive || s == suspect }

func about(state word, inc uint16) word { return word(inc)<<incShift | state }

// A view is what a word is to the pool of package gossip.
type view uint8

const (
	nothing view = iota
	usable
	suspected
)

// What a record announces, beside versions from 1 on.
const (
	announcesNothing uint16 = 0
	withdrawn        uint16 = 1<<16 - 1
)

// kind tells the size of a record with that version, as an index of sizes.
func kind(version uint16) int {
	switch version {
	case announcesNothing:
		return 1
	case withdrawn:
		return 2
	}
	return 0
}

// version is what the pool of a member knows the subject to announce.
func (p *Pool) version(subject uint16, w word) uint16 {
	return p.procs[subject].versions[w.inc()-w.lag()]
}

func (p *Pool) view(subject uint16, w word) view {
	if w.state() == unknown || w&forgotten != 0 {
		return nothing
	}
	if v := p.version(subject, w); v == announcesNothing || v == withdrawn {
		return nothing
	}
	if w.lives() {
		return usable
	}
	return suspected
}

// set replaces what m knows of a subject. Flags but peer are lost, unless they are in w.
func (p *Pool) set(m *process, subject uint16, w word) {
	old := m.row[subject]
	w |= old & peer
	m.row[subject] = w
	if subject == m.id {
		return
	}
	s := p.procs[subject]
	if before, after := p.view(subject, old), p.view(subject, w); before != after {
		switch before {
		case usable:
			m.usable--
		case suspected:
			m.suspected--
			s.heldDead--
		}
		switch after {
		case usable:
			m.usable++
		case suspected:
			m.suspected++
			s.heldDead++
		}
	}
	if old.lives() {
		m.living--
		m.digest[s.bucket] -= p.hash(subject, old.inc())
	}
	if w.lives() {
		m.living++
		m.digest[s.bucket] += p.hash(subject, w.inc())
		if !old.lives() {
			p.arrival(m)
		}
	}
}

// setOwn replaces what m says of itself.
func (p *Pool) setOwn(m *process, w word) {
	if old := m.row[m.id]; old.lives() {
		m.digest[m.bucket] -= p.hash(m.id, old.inc())
	}
	m.row[m.id] = w
	if w.lives() {
		m.digest[m.bucket] += p.hash(m.id, w.inc())
	}
}

// hash mixes a subject and its incarnation (the finalizer of SplitMix64).
func (p *Pool) hash(subject, inc uint16) uint64 {
	z := (uint64(subject)<<16 | uint64(inc)) * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// A deadline is when something becomes of what is known of a subject, if that has not changed by then.
type deadline struct {
	at      time.Duration
	subject uint16
	word    word
}

// A line is of deadlines of which each is later than those before it.
type line struct {
	all   []deadline
	armed bool // an event will look at the first one
}

func (l *line) add(d deadline) {
	if n := len(l.all); n > 0 {
		d.at = max(d.at, l.all[n-1].at)
	}
	l.all = append(l.all, d)
}

// due takes the first one off if its time has come.
func (l *line) due(now time.Duration) (d deadline, ok bool) {
	if len(l.all) == 0 {
		l.all = nil
		return d, false
	}
	if l.all[0].at > now {
		return d, false
	}
	d = l.all[0]
	l.all = l.all[1:]
	return d, true
}
