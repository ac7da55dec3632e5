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
	// pollsKept is how long a member is remembered after its last poll began: long enough for
	// the next one.
	pollsKept = maxWait + time.Minute
)

// poll is what a member said when it asked for rules, and who it is by its certificate.
type poll struct {
	service  string
	instance string // in the gossip pool, as it says
	addr     netip.AddrPort
	version  uint64 // of the rules in force
	refused  uint64
	reason   string
	at       time.Time
}

type pollKey struct{ service, instance string }

// polls remembers the last poll of each member. A member can only speak for its own service.
type polls struct {
	mu   sync.Mutex
	last map[pollKey]poll
}

func newPolls() *polls { return &polls{last: make(map[pollKey]poll)} }

func (p *polls) record(q poll, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := pollKey{q.service, q.instance}
	if _, known := p.last[key]; !known && len(p.last) >= maxPolls {
		p.forget(now)
		if len(p.last) >= maxPolls {
			return
		}
	}
	q.at = now
	p.last[key] = q
}

func (p *polls) forget(now time.Time) {
	for k, q := range p.last {
		if now.Sub(q.at) > pollsKept {
			delete(p.last, k)
		}
	}
}

// recent returns the last polls of members that still poll.
func (p *polls) recent(now time.Time) []poll {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(now)
	all := make([]poll, 0, len(p.last))
	for _, q := range p.last {
		all = append(all, q)
	}
	slices.SortFunc(all, func(a, b poll) int {
		return strings.Compare(a.service+"\x00"+a.instance, b.service+"\x00"+b.instance)
	})
	return all
}
