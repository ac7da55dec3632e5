package control

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxPolls = 50_000
	// A member polls again at once, unless something is wrong with what it got.
	pollGap    = 5 * time.Second
	refusalGap = 2 * time.Minute
)

// poll is what a member said when it asked for rules, and who it is by its certificate.
type poll struct {
	service  string
	instance string // in the gossip pool, as it says
	addr     netip.AddrPort
	serial   string   // of its certificate, in hexadecimal
	roots    []string // that it trusts, fingerprints
	issuer   string   // of its certificate, fingerprint
	version  uint64   // of the rules in force
	refused  uint64
	reason   string
	warnings []string  // rules that its listeners can't evaluate
	keys     string    // names of its gossip keys, in order; "" if it does not gossip
	observes bool      // the gossip, without being a member of the pool
	at       time.Time // it began, or ended
	open     int       // polls under way
}

// gone reports whether the member does not poll any more.
func (q poll) gone(now time.Time) bool {
	gap := pollGap
	if q.reason != "" {
		gap = refusalGap
	}
	return q.open == 0 && now.Sub(q.at) > gap
}

type pollKey struct{ service, instance string }

// polls remembers the last poll of each member. A member can only speak for its own service.
type polls struct {
	mu   sync.Mutex
	last map[pollKey]poll
}

func newPolls() *polls { return &polls{last: make(map[pollKey]poll)} }

// begin records a poll; what it returns records its end.
func (p *polls) begin(q poll) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	key := pollKey{q.service, q.instance}
	last, known := p.last[key]
	if !known && len(p.last) >= maxPolls {
		p.forget(now)
		if len(p.last) >= maxPolls {
			return func() {}
		}
	}
	q.at, q.open = now, last.open+1
	p.last[key] = q
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		q := p.last[key]
		q.at = time.Now()
		q.open--
		p.last[key] = q
	}
}

func (p *polls) forget(now time.Time) {
	for k, q := range p.last {
		if q.gone(now) {
			delete(p.last, k)
		}
	}
}

// recent returns the last polls of members that still poll.
func (p *polls) recent() []poll {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(time.Now())
	all := make([]poll, 0, len(p.last))
	for _, q := range p.last {
		all = append(all, q)
	}
	slices.SortFunc(all, func(a, b poll) int {
		return strings.Compare(a.service+"\x00"+a.instance, b.service+"\x00"+b.instance)
	})
	return all
}
