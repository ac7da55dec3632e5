package gossip

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/guard"
	"github.com/intramesh/mesh/discovery/gossip/internal/observe"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
)

// upstreams is how many members an observer follows the pool through at one time.
const upstreams = 2

// An observer follows the services that are looked up through some members. What they say fills the pool that a full member
// would fill from its own gossip: the records are verified, kept and dropped by the same rules. All is guarded by the pool's mu, but
// for what the streams alone use.
type observer struct {
	m         *Observer
	p         *pool
	up        [upstreams]upstream
	interests map[string]*interest
	claims    map[string]*claim // by member
	size      int               // of the pool, as it was told last; 0 before
	asked     bool              // somebody was asked for others
	greeted   chan struct{}     // closed with the first word of a member
	alone     time.Time         // since when there is nobody to observe through; zero while there is
	crowded   time.Time         // when a member had no room last
}

// An interest is a service that was looked up. Answered is closed once a member has told all it knows of it.
type interest struct{ answered chan struct{} }

// An upstream is a member that is observed through.
type upstream struct {
	addr   netip.AddrPort // zero when there is none
	trying netip.AddrPort // who may become addr: never the other upstream
	wake   chan struct{}  // there is something to ask; capacity 1
	asks   []string       // services to ask for
	drops  []string
	synced map[string]bool              // services that it has told all of
	offers map[string]map[string]saying // by service, what was known when it was asked
	peers  []observe.Frame              // other members that it told of

	answering string // the service that it tells all of just now
	bits      uint64
	seen      map[string]bool // in this answer
}

// A claim is what the upstreams say of a member, and saying is what one of them does.
type claim struct {
	said     [upstreams]saying
	disputed bool // it is a suspect, and some say that it lives
}

type saying struct {
	word word
	addr netip.AddrPort
	meta []byte
}

type word uint8

const (
	silent word = iota
	lives
	isDead
)

// follow makes the service an interest. p.mu is held.
func (o *observer) follow(service string) {
	if o.interests[service] != nil || service == "" || len(service) > 253 {
		return
	}
	if len(o.interests) >= maxInterests && !o.evict() {
		return
	}
	service = strings.Clone(service)
	o.interests[service] = &interest{make(chan struct{})}
	for i := range o.up {
		if u := &o.up[i]; u.addr.IsValid() {
			u.asks = append(u.asks, service)
			poke(u.wake)
		}
	}
}

// evict forgets an interest in what nobody announces: names can come from outside.
func (o *observer) evict() bool {
	for service := range o.interests {
		if o.p.exists(service) {
			continue
		}
		delete(o.interests, service)
		for i := range o.up {
			u := &o.up[i]
			delete(u.synced, service)
			delete(u.offers, service)
			u.drops = append(u.drops, service)
			poke(u.wake)
		}
		return true
	}
	return false
}

// digest returns what is known of a service, to be told what differs, and notes it for the answer of u. p.mu is held.
func (o *observer) digest(u *upstream, service string) *observe.Digest {
	all := make(map[string]saying)
	u.offers[service] = all
	var d observe.Digest
	for _, m := range o.p.services[service] {
		d.Add(m.name, m.at.addr(), m.meta)
		all[m.name] = saying{lives, m.at.addr(), m.meta}
	}
	if len(all) == 0 {
		return nil
	}
	return &d
}

// take takes in what upstream i says. p.mu is held.
func (o *observer) take(i int, f observe.Frame, now time.Time) {
	u := &o.up[i]
	switch f.Kind {
	case observe.Set:
		if u.offers[f.Name] != nil { // it was asked
			u.answering, u.bits, u.seen = f.Name, f.Bits, make(map[string]bool)
		}
	case observe.Record:
		s := saying{lives, f.Addr, f.Meta}
		if f.Dead {
			s.word = isDead
		}
		if u.answering != "" && len(u.seen) < guard.MaxMembers {
			u.seen[f.Name] = true
		}
		o.hear(i, f.Name, s, now)
	case observe.Gone:
		o.hear(i, f.Name, saying{}, now)
	case observe.End:
		if u.answering == f.Name {
			o.answered(i, now)
		}
	case observe.Peer:
		f.Meta = bytes.Clone(f.Meta)
		u.peers = append(u.peers, f)
		u.peers = u.peers[max(0, len(u.peers)-toldPeers):]
	}
}

// answered ends the answer of upstream i: whom it did not name is as it was where the digests agree, and unknown there where not.
func (o *observer) answered(i int, now time.Time) {
	u := &o.up[i]
	service, seen := u.answering, u.seen
	offered := u.offers[service]
	u.synced[service] = true
	for _, m := range slices.Clone(o.p.services[service]) {
		if seen[m.name] {
			continue
		}
		var s saying
		if u.bits>>observe.Bucket(m.name)&1 == 0 {
			s = offered[m.name]
		}
		o.hear(i, m.name, s, now)
	}
	u.answering, u.seen = "", nil
	delete(u.offers, service)
	o.flush() // before Await returns
	if in := o.interests[service]; in != nil {
		select {
		case <-in.answered:
		default:
			close(in.answered)
		}
	}
}

// hear notes what upstream i says of a member. p.mu is held.
func (o *observer) hear(i int, name string, s saying, now time.Time) {
	c := o.claims[name]
	if c == nil {
		if name == o.p.name || s.word == silent && o.p.members[name] == nil || len(o.claims) >= guard.MaxMembers {
			return
		}
		c = new(claim)
		o.claims[name] = c
	}
	if s.word != silent {
		s.meta = o.shared(name, c, s.meta)
	}
	c.said[i] = s
	o.weigh(i, name, c, now)
}

// shared returns meta in memory of its own, or the same that is kept already.
func (o *observer) shared(name string, c *claim, meta []byte) []byte {
	if m := o.p.members[name]; m != nil && bytes.Equal(m.meta, meta) {
		return m.meta
	}
	for _, s := range c.said {
		if bytes.Equal(s.meta, meta) {
			return s.meta
		}
	}
	return bytes.Clone(meta)
}

// weigh decides what to believe of a member after upstream i has spoken. p.mu is held.
//
// A record counts for its signature, whoever hands it on; one that can't be verified yet is replaced only when no upstream still says
// it. Of whether the member lives, the worst that any upstream says marks it a suspect, and it is forgotten when all agree.
func (o *observer) weigh(i int, name string, c *claim, now time.Time) {
	p, s := o.p, c.said[i]
	m := p.members[name]
	if s.word != silent && (m == nil || m.at.addr() != s.addr || !bytes.Equal(m.meta, s.meta)) {
		switch {
		case o.late(m, name, s): // an upstream may be behind the other
		case m == nil, m.verified && m.at.addr() == s.addr, !m.verified && (m.lies || !c.backs(m)):
			p.learn(name, news{addr: s.addr, meta: s.meta}, now)
		case m.verified: // names stay where they are
			if n := p.refused.Add(tally.Forged); n > 0 {
				p.log.Warn("gossip: a member is said to be elsewhere", "instance", name, "addr", m.at.addr(), "claimed", s.addr, "by", o.up[i].addr, "refused", n)
			}
		}
		m = p.members[name]
	}
	if m != nil && m.lies && o.another(m, c, now) { // somebody may have forged what does
		m = p.members[name]
	}
	if m != nil && !o.concerned(m.services()) && (m.verified || !o.another(m, c, now)) {
		p.forget(m) // it announces nothing of interest any more
		return
	}
	if m == nil {
		delete(o.claims, name)
		return
	}
	o.assess(m, c, now)
	if !slices.ContainsFunc(c.said[:], func(s saying) bool { return s.word != silent }) {
		delete(o.claims, name)
	}
}

// late reports whether what is said of a member was overtaken by what is known to be true. p.mu is held.
func (o *observer) late(m *member, name string, s saying) bool {
	known, left := o.p.goodbyes[name]
	if m != nil && m.verified && m.at.addr() == s.addr {
		known, left = m.record().Generation, true
	}
	r, err := record.Decode(s.meta, name, s.addr.Addr())
	return left && err == nil && r.Generation <= known
}

// backs reports whether any upstream says what is known of m.
func (c *claim) backs(m *member) bool {
	return slices.ContainsFunc(c.said[:], func(s saying) bool {
		return s.word != silent && s.addr == m.at.addr() && bytes.Equal(s.meta, m.meta)
	})
}

// concerned reports whether any of the services is of interest.
func (o *observer) concerned(services []string) bool {
	return slices.ContainsFunc(services, func(s string) bool { return o.interests[s] != nil })
}

// another takes something else that is said of an unverified member, and reports whether that is of interest. p.mu is held.
func (o *observer) another(m *member, c *claim, now time.Time) bool {
	for _, s := range c.said {
		if s.word == silent || s.addr == m.at.addr() && bytes.Equal(s.meta, m.meta) {
			continue
		}
		r, err := record.Decode(s.meta, m.name, s.addr.Addr())
		if err != nil || !o.concerned(services(r)) {
			continue
		}
		o.p.learn(m.name, news{addr: s.addr, meta: s.meta}, now)
		return true
	}
	return false
}

// assess decides whether a member is a suspect. p.mu is held.
func (o *observer) assess(m *member, c *claim, now time.Time) {
	p := o.p
	var alive, dead, absent int
	services := m.services()
	for i, s := range c.said {
		switch {
		case s.word == lives:
			alive++
		case s.word == isDead:
			dead++
		case slices.ContainsFunc(services, func(s string) bool { return o.up[i].synced[s] }):
			absent++
		}
	}
	if alive+dead+absent == 0 {
		return // nobody to ask: what is known stands
	}
	suspected := dead > 0 || absent > 0 && (alive == 0 || m.dead)
	if c.disputed = suspected && alive > 0; m.dead {
		p.poke() // it may expire, now or later
	}
	switch {
	case suspected && !m.dead:
		p.bury(m, now)
		p.poke() // for when it expires
	case !suspected && m.dead:
		m.dead = false
		delete(p.dead, m)
		p.touch(m)
	}
}

// disputes reports whether some say that a suspect lives. p.mu is held.
func (o *observer) disputes(m *member) bool {
	c := o.claims[m.name]
	return c != nil && c.disputed
}

// forgotten drops what was said of a member that expired, or announces nothing of interest any more.
func (o *observer) forgotten(name string) { delete(o.claims, name) }

// unproven tries what another upstream says of a member that can't prove what is known of it.
func (o *observer) unproven(m *member, now time.Time) {
	if c := o.claims[m.name]; c != nil && !m.verified {
		o.another(m, c, now)
		o.flush()
	}
}

// connected notes that upstream i is there, and has it asked for everything.
func (o *observer) connected(i int, addr netip.AddrPort) {
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	u := &o.up[i]
	u.addr, u.asks, u.drops = addr, slices.Collect(maps.Keys(o.interests)), nil
	u.synced, u.offers = make(map[string]bool), make(map[string]map[string]saying)
	o.alone = time.Time{}
	o.m.alone.over(time.Now(), o.m.cfg.Logger)
	o.p.poke() // suspects may expire again
	poke(u.wake)
}

// lost forgets what upstream i said: what is known stands, unless the other one knows better.
func (o *observer) lost(i int, now time.Time) {
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	wake, peers := o.up[i].wake, o.up[i].peers
	o.up[i] = upstream{wake: wake, peers: peers}
	for name, c := range maps.Clone(o.claims) {
		if c.said[i].word == silent {
			continue
		}
		c.said[i] = saying{}
		o.weigh(i, name, c, now)
	}
	if o.blind() {
		o.alone = now
	}
	o.flush()
}

// blind reports whether there is nobody to observe through. p.mu is held.
func (o *observer) blind() bool {
	return !slices.ContainsFunc(o.up[:], func(u upstream) bool { return u.addr.IsValid() })
}

// doubtAll marks all suspect. They are not forgotten while there is nobody to ask. p.mu is held.
func (o *observer) doubtAll(now time.Time) {
	for _, m := range maps.Clone(o.p.members) {
		if !m.dead {
			o.p.bury(m, now)
		}
	}
	o.p.publish()
}

// flush makes known what has changed. p.mu is held.
func (o *observer) flush() {
	for service := range o.p.dirty {
		if o.interests[service] != nil {
			o.p.want(service)
		}
	}
	o.p.publish()
}
