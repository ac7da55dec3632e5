package gossip

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/intramesh/mesh/discovery/gossip/internal/observe"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
	"github.com/intramesh/mesh/internal/pace"
)

// news is what memberlist said last about a member.
type news struct {
	gone bool
	addr netip.AddrPort
	meta []byte
}

// NotifyJoin implements [memberlist.EventDelegate].
func (p *pool) NotifyJoin(n *memberlist.Node) { p.hear(n, false) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (p *pool) NotifyUpdate(n *memberlist.Node) { p.hear(n, false) }

// NotifyLeave implements [memberlist.EventDelegate]. It is called for the dead and for those who say
// that they leave; the latter have withdrawn their endpoints before.
func (p *pool) NotifyLeave(n *memberlist.Node) { p.hear(n, true) }

// hear never blocks, since memberlist holds its lock. Memberlist goes on to change the node, yet not what Meta holds.
func (p *pool) hear(n *memberlist.Node, gone bool) {
	if n.Name == p.name {
		return
	}
	ip, _ := netip.AddrFromSlice(n.Addr)
	p.newsMu.Lock()
	p.news[n.Name] = news{gone: gone, addr: netip.AddrPortFrom(ip.Unmap(), n.Port), meta: n.Meta}
	p.newsMu.Unlock()
	p.poke()
}

// NodeMeta implements [memberlist.Delegate]. The limit is record.MaxSize.
func (p *pool) NodeMeta(int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.encoded
}

// NotifyMsg implements [memberlist.Delegate].
func (p *pool) NotifyMsg([]byte) {}

// GetBroadcasts implements [memberlist.Delegate].
func (p *pool) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements [memberlist.Delegate].
func (p *pool) LocalState(bool) []byte { return nil }

// MergeRemoteState implements [memberlist.Delegate].
func (p *pool) MergeRemoteState([]byte, bool) {}

// apply brings the members up to date. It returns how long until a suspect may expire.
func (p *pool) apply(now time.Time) (next time.Duration, ok bool) {
	const batch = 64 // each may cost a verification of 100 µs, under p.mu
	p.applyMu.Lock()
	defer p.applyMu.Unlock()
	p.newsMu.Lock()
	all := p.news
	p.news = make(map[string]news)
	p.newsMu.Unlock()
	for {
		p.mu.Lock()
		n := 0
		for name, what := range all {
			if n++; n > batch {
				break
			}
			p.learn(name, what, now)
			delete(all, name)
		}
		if len(all) == 0 {
			break
		}
		p.mu.Unlock()
	}
	defer p.mu.Unlock()
	next, ok = p.expire(now)
	p.publish()
	return next, ok
}

// learn takes news of one member in; p.mu is held.
func (p *pool) learn(name string, n news, now time.Time) {
	m := p.members[name]
	if n.gone || n.addr == p.addr { // who is said to be where we are has been here before us
		if m != nil && !m.dead {
			p.bury(m, now)
		}
		return
	}
	r, err := record.Decode(n.meta, name, n.addr.Addr())
	if err != nil {
		if count := p.refused.Add(tally.Message); count > 0 {
			p.log.Warn("gossip: unreadable record", "instance", name, "addr", n.addr, "error", err, "refused", count)
		}
		r, n.meta = record.Record{}, nil
	}
	if last, left := p.goodbyes[name]; left {
		if r.Generation <= last {
			p.outdated(name, n.addr, r, last)
			return // it left: somebody repeats what it said before
		}
		delete(p.goodbyes, name)
	}
	if m == nil {
		m = &member{name: name, at: placeOf(n.addr)}
		p.members[name] = m
		poke(p.newcomer)
		p.arrival()
		p.log.Info("gossip: member joined", "instance", name, "addr", n.addr)
		for o := range p.dead {
			if o.at == m.at { // the same process, restarted
				p.forget(o)
			}
		}
	}
	if m.dead {
		m.dead = false
		delete(p.dead, m)
		p.arrival()
		p.touch(m)
	}
	if at := placeOf(n.addr); m.at != at {
		p.touch(m)
		m.at, m.wanted, m.verified = at, nil, false
	}
	if !bytes.Equal(n.meta, m.meta) {
		p.accept(m, n.meta, r, now)
	}
}

// arrival counts a member that joined or came back. p.mu is held.
func (p *pool) arrival() {
	if p.arrived++; p.arrived*pace.ManyArrivals > len(p.members)-len(p.dead) {
		p.arrived = 0
		poke(p.stirred)
	}
}

func (p *pool) forgetArrivals() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.arrived = 0
}

// accept takes a new record of a member, unless it has a better one. One that was verified is replaced by a later one that
// is as good, and by no other: neither an older one nor one that somebody else made up.
func (p *pool) accept(m *member, meta []byte, r record.Record, now time.Time) {
	if known := m.record().Generation; m.verified && r.Generation <= known {
		p.outdated(m.name, m.at.addr(), r, known)
		return
	}
	if m.verified && r.Cert != m.wanted.proof.cert {
		m.wanted.next = meta
		p.schedule(m, now, checkSpread)
		return
	}
	if !m.verified {
		p.set(m, meta, r)
		p.assess(m, r, now)
		return
	}
	err := p.judge(m, meta, r)
	if err != nil {
		p.refuse(m, err)
		if !isLie(err) {
			return // what is known stands
		}
	}
	p.set(m, meta, r)
	p.believe(m, r, err == nil)
}

// set replaces a member's record.
func (p *pool) set(m *member, meta []byte, r record.Record) {
	before, now := m.services(), services(r)
	var farewell []byte
	if r.Left {
		farewell = observe.Frame{Kind: observe.Record, Name: m.name, Addr: m.at.addr(), Meta: meta}.Append(nil)
	}
	p.tell(m.name, before, farewell)
	p.tell(m.name, now, nil)
	for _, s := range before {
		p.dirty[s] = true
		if !slices.Contains(now, s) {
			p.unlink(m, s)
		}
	}
	for _, s := range now {
		p.dirty[s] = true
		if !slices.Contains(before, s) {
			p.appeared = p.appeared || !p.exists(s)
			p.services[s] = append(p.services[s], m)
		}
	}
	if m.meta, m.bundle = meta, r.Bundle; m.wanted != nil {
		m.wanted.eps, m.wanted.next = nil, nil
	}
}

// bury notes that a member is held dead. One without endpoints has left, or never mattered.
func (p *pool) bury(m *member, now time.Time) {
	services := m.services()
	p.log.Info("gossip: member gone", "instance", m.name, "addr", m.at.addr(), "services", services)
	if len(services) == 0 {
		p.left = append(p.left, m.at.addr())
		p.forget(m)
		return
	}
	for _, o := range p.members {
		if o != m && o.at == m.at && !o.dead { // the same process, restarted
			p.forget(m)
			return
		}
	}
	m.dead = true
	p.dead[m] = now
	p.touch(m)
}

// forget removes a member.
func (p *pool) forget(m *member) {
	services := m.services()
	for _, s := range services {
		p.dirty[s] = true
		p.unlink(m, s)
	}
	p.tell(m.name, services, nil)
	delete(p.members, m.name)
	delete(p.dead, m)
	delete(p.checks, m)
	if p.observer != nil {
		p.observer.forgotten(m.name)
	}
}

func (p *pool) unlink(m *member, service string) {
	all := p.services[service]
	if i := slices.Index(all, m); i >= 0 {
		all[i] = all[len(all)-1]
		all[len(all)-1] = nil
		all = all[:len(all)-1]
	}
	if p.services[service] = all; len(all) == 0 {
		delete(p.services, service)
	}
}

// touch marks the snapshots that a member appears in as out of date, those of observers too.
func (p *pool) touch(m *member) {
	services := m.services()
	for _, s := range services {
		p.dirty[s] = true
	}
	p.tell(m.name, services, nil)
}
