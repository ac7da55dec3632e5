package light

import (
	"slices"
	"time"

	"github.com/intramesh/mesh/internal/pace"
)

// dial returns how long connecting takes, and whether it does within the limit: a round trip, and 1, 2, 4 … s more for each SYN that is lost (RFC 6298).
// What becomes of a connection to who is gone is seen then.
func (p *Pool) dial(m *process, to uint16, limit time.Duration) (time.Duration, bool) {
	wait := p.delay() + p.delay()
	for backoff := time.Second; p.lose(); backoff *= 2 {
		wait += backoff
	}
	if p.isCut(m.id, to) || wait > limit {
		return limit, false
	}
	p.traffic.Streams++
	return wait, true
}

// seek tries some of the seeds and remembered peers that are not members now (gossip's Member.seek).
func (p *Pool) seek(m *process) {
	if m.living > 0 {
		p.join(m)
	}
	var next []uint16
	for id := range p.cfg.Seeds {
		if id := narrow(id); id != m.id && !m.row[id].lives() {
			next = append(next, id)
		}
	}
	p.shuffle(next)
	next = next[:min(len(next), pace.Fanout)]
	next = append(next, p.leastFailed(m, next)...)
	m.seeking, m.reached = len(next), false
	for _, o := range next {
		wait, ok := p.dial(m, o, pace.DialTimeout)
		what := evExchange
		if !ok {
			what = evFailed
		}
		p.after(wait, event{kind: what, a: m.id, b: o})
	}
	if len(next) == 0 {
		p.rest(m)
	}
}

// leastFailed are some of the remembered peers that are not members now, those that failed least often.
func (p *Pool) leastFailed(m *process, taken []uint16) (some []uint16) {
	least := 0
	for _, o := range m.peers {
		failed := m.failed[o.id]
		if m.row[o.id].lives() || slices.Contains(taken, o.id) || len(some) > 0 && failed > least {
			continue
		}
		if failed < least {
			some = some[:0]
		}
		least, some = failed, append(some, o.id)
	}
	p.shuffle(some)
	return some[:min(len(some), pace.Fanout)]
}

func (p *Pool) shuffle(all []uint16) {
	p.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
}

// tried notes what came of trying to reach another.
func (p *Pool) tried(m *process, other uint16, reached bool) {
	m.reached = m.reached || reached
	if reached {
		delete(m.failed, other)
	} else {
		if m.failed == nil {
			m.failed = make(map[uint16]int)
		}
		m.failed[other]++
	}
	if m.seeking--; m.seeking == 0 {
		p.rest(m)
	}
}

// rest waits until it is time to seek again.
func (p *Pool) rest(m *process) {
	if m.reached {
		p.join(m)
	}
	p.remember(m)
	wait := p.rejoinInterval
	if !m.joined {
		wait = min(m.pause, wait)
		m.pause = 2 * wait
	}
	p.after(wait/2+p.upTo(wait/2), event{kind: evSeek, a: m.id})
}

// join is when a member has reached another one for the first time: it announces its service, and begins to compare.
func (p *Pool) join(m *process) {
	if m.joined {
		return
	}
	m.joined = true
	p.register(m)
	m.wait = p.syncInterval / pace.FirstSync
	p.syncLater(m)
}

func (p *Pool) register(m *process) {
	if m.announced == announcesNothing {
		p.announce(m, 1)
	}
}

func (p *Pool) announce(m *process, version uint16) {
	m.announced = version
	p.raise(m, m.row[m.id].inc()+1)
}

// A peerSeen is a remembered peer.
type peerSeen struct {
	id uint16
	at time.Duration
}

// remember keeps members of now for later (gossip's peers.see and trim).
func (p *Pool) remember(m *process) {
	alive := 0
	kept := m.peers[:0]
	for _, o := range m.peers {
		w := m.row[o.id]
		if !w.lives() && w.state() != unknown && p.view(o.id, w) == nothing && w&forgotten == 0 {
			m.row[o.id] &^= peer // it left
			continue
		}
		if w.lives() {
			o.at = p.now
			alive++
		}
		kept = append(kept, o)
	}
	m.peers = kept
	if n := len(m.nodes); n > 0 {
		start := p.random.IntN(n)
		for i := range n {
			if alive >= pace.MaxPeers/2 && len(m.peers) >= pace.MaxPeers {
				break
			}
			o := m.nodes[(start+i)%n]
			if w := m.row[o]; o != m.id && w.lives() && w&peer == 0 {
				m.row[o] |= peer
				m.peers = append(m.peers, peerSeen{o, p.now})
				alive++
			}
		}
	}
	if len(m.peers) > pace.MaxPeers {
		slices.SortFunc(m.peers, func(a, b peerSeen) int { return int(b.at - a.at) })
		for _, o := range m.peers[pace.MaxPeers:] {
			m.row[o.id] &^= peer
		}
		m.peers = m.peers[:pace.MaxPeers]
	}
}

// exchange is a full exchange of state, once m is connected with o.
func (p *Pool) exchange(m, o *process) {
	if !o.up {
		p.tried(m, o.id, false)
		return
	}
	mine, theirs := p.sizes.head, p.sizes.head
	for i := range p.procs {
		id := narrow(i)
		a, b := m.row[id], o.row[id]
		if a.known() {
			mine += p.sizes.state[kind(p.version(id, a))]
		}
		if b.known() {
			theirs += p.sizes.state[kind(p.version(id, b))]
		}
		if (a^b)&sameMask != 0 {
			p.merge(o, id, a)
			p.merge(m, id, b)
		}
	}
	p.carry(m, o, streamed(mine, true), streamed(theirs, false))
	p.tried(m, o.id, true)
}

// carry counts what a stream from m to o carried.
func (p *Pool) carry(m, o *process, request, reply int) {
	p.traffic.Bytes += int64(request + reply)
	m.streamed += int64(request)
	o.streamed += int64(reply)
}

// arrival notes that another has joined or come back. When many did, it is time to compare again.
func (p *Pool) arrival(m *process) {
	if m.arrived++; m.joined && m.arrived*pace.ManyArrivals > m.living {
		m.arrived = 0
		if m.wait = p.syncInterval / pace.FirstSync; !m.syncing {
			p.syncLater(m)
		}
	}
}

func (p *Pool) syncLater(m *process) {
	m.syncing = false
	m.syncs++
	p.after(m.wait/2+p.upTo(m.wait), event{kind: evSync, a: m.id, x: m.syncs})
	if m.wait = min(2*m.wait, p.syncInterval); m.living < pace.SmallPool {
		m.wait = min(m.wait, p.syncInterval/pace.SmallSync)
	}
}

// sync connects with somebody to compare what both know (gossip's Member.staySynced).
func (p *Pool) sync(m *process) {
	m.syncing, m.arrived = true, 0
	if m.living == 0 {
		p.syncLater(m)
		return
	}
	for {
		o := m.nodes[p.random.IntN(len(m.nodes))]
		if o == m.id || !m.row[o].lives() {
			continue
		}
		if wait, ok := p.dial(m, o, pace.DialTimeout); ok {
			p.after(wait, event{kind: evSynced, a: m.id, b: o})
		} else {
			p.after(wait, event{kind: evSynced, a: m.id, b: m.id})
		}
		return
	}
}

// synced compares by buckets: o tells what is in those that differ, and m, on another stream, what o lacks of them.
func (p *Pool) synced(m, o *process) {
	if m == o || !o.up {
		p.syncLater(m)
		return
	}
	answer, lacks := bucketMapSize+p.sizes.head, 0
	m.lacks = m.lacks[:0]
	p.told = p.told[:0]
	for b := range m.digest {
		if m.digest[b] == o.digest[b] {
			continue
		}
		for _, id := range p.buckets[b] {
			mine, theirs := m.row[id], o.row[id]
			told := theirs.known()
			if told {
				answer += p.sizes.state[kind(p.version(id, theirs))]
				p.told = append(p.told, id)
			}
			if mine.known() && (!told && mine.lives() || told && (theirs.inc() < mine.inc() || theirs.state() < mine.state())) {
				lacks += p.sizes.state[kind(p.version(id, mine))]
				m.lacks = append(m.lacks, lacking{id, mine})
			}
		}
	}
	p.carry(m, o, streamed(digestSize, true), streamed(answer, false))
	for _, id := range p.told {
		p.merge(m, id, o.row[id])
	}
	if len(m.lacks) == 0 {
		p.syncLater(m)
		return
	}
	m.lackSize = typeSize + p.sizes.head + lacks
	if wait, ok := p.dial(m, o.id, pace.DialTimeout); ok {
		p.after(wait, event{kind: evPush, a: m.id, b: o.id})
	} else {
		p.after(wait, event{kind: evSynced, a: m.id, b: m.id})
	}
}

// A lacking is what another member has not heard.
type lacking struct {
	id   uint16
	word word
}

func (p *Pool) push(m, o *process) {
	if o.up {
		p.carry(m, o, streamed(m.lackSize, true), streamed(typeSize, false))
		for _, l := range m.lacks {
			p.merge(o, l.id, l.word)
		}
	}
	p.syncLater(m)
}
