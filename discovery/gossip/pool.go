package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
	"github.com/intramesh/mesh/discovery/internal/table"
)

// A FullError says that what a member announces does not fit its record.
type FullError struct {
	// Size is what the record would have, Limit what it may have, in bytes.
	Size, Limit int
}

// Error says both sizes.
func (e *FullError) Error() string {
	return fmt.Sprintf("the member's record would have %d bytes, of %d: announce fewer or shorter names", e.Size, e.Limit)
}

// pool is what is known of the members. It learns from memberlist by way of news, which the
// run loop applies: memberlist calls back under its own lock.
type pool struct {
	table *table.Table
	log   *slog.Logger
	addr  netip.AddrPort
	name  string
	zone  string
	ttl   time.Duration
	wake  chan struct{} // capacity 1

	newsMu sync.Mutex
	news   map[string]news // by member; the latest counts

	mu      sync.Mutex
	own     record.Record
	encoded []byte
	members map[string]*member // without us
	left    []netip.AddrPort   // of those who left, see takeLeft
}

// news is what memberlist said last about a member.
type news struct {
	gone bool
	addr netip.AddrPort
	meta []byte
}

// member is another process.
type member struct {
	addr   netip.AddrPort
	record record.Record
	dead   time.Time // since when it is held dead; zero if it lives
}

func newPool(cfg Config, addr netip.AddrPort) *pool {
	p := &pool{
		table: table.New(), log: cfg.Logger, addr: addr, name: cfg.Instance, zone: cfg.Zone,
		ttl: cfg.SuspectTTL, wake: make(chan struct{}, 1),
		news: make(map[string]news), members: make(map[string]*member),
		own: record.Record{Zone: cfg.Zone},
	}
	p.encoded = p.own.Encode(addr.Addr())
	return p
}

// generation is that of our own record.
func (p *pool) generation() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.own.Generation
}

// register adds ep to our record, or replaces the one for the same service and port.
func (p *pool) register(ep discovery.Endpoint) error {
	ep.Instance, ep.Suspect = p.name, false
	if ep.Addr.Addr().IsUnspecified() {
		ep.Addr = netip.AddrPortFrom(p.addr.Addr(), ep.Addr.Port())
	}
	ep.Addr = netip.AddrPortFrom(ep.Addr.Addr().Unmap().WithZone(""), ep.Addr.Port())
	if ep.Zone == "" {
		ep.Zone = p.zone
	}
	if err := record.Check(ep); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.own.Endpoints, ep) {
		return nil
	}
	return p.announce(append(p.without(ep), ep), ep.Service)
}

func (p *pool) deregister(ep discovery.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if rest := p.without(ep); len(rest) < len(p.own.Endpoints) {
		_ = p.announce(rest, ep.Service) // smaller always fits
	}
}

// withdraw removes everything from our record.
func (p *pool) withdraw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.own.Endpoints) > 0 {
		_ = p.announce(nil, services(p.own)...) // smaller always fits
	}
}

// without returns our endpoints but for the one with the service and port of ep.
func (p *pool) without(ep discovery.Endpoint) []discovery.Endpoint {
	return slices.DeleteFunc(slices.Clone(p.own.Endpoints), func(o discovery.Endpoint) bool {
		return o.Service == ep.Service && o.Port == ep.Port
	})
}

// announce replaces our record; p.mu is held.
func (p *pool) announce(endpoints []discovery.Endpoint, changed ...string) error {
	next := record.Record{Zone: p.zone, Generation: p.own.Generation + 1, Endpoints: endpoints}
	encoded := next.Encode(p.addr.Addr())
	if len(encoded) > record.MaxSize {
		return &FullError{len(encoded), record.MaxSize}
	}
	p.own, p.encoded = next, encoded
	p.publish(changed...)
	return nil
}

// run applies news and lets suspects expire, until ctx is done.
func (p *pool) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		if next, ok := p.apply(time.Now()); ok {
			timer.Reset(next)
		}
	}
}

// apply brings the members up to date. It returns how long until a suspect may expire.
func (p *pool) apply(now time.Time) (next time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.newsMu.Lock()
	all := p.news
	p.news = make(map[string]news)
	p.newsMu.Unlock()
	var changed []string
	for name, n := range all {
		m := p.members[name]
		if n.gone {
			if m == nil || !m.dead.IsZero() {
				continue
			}
			changed = append(changed, services(m.record)...)
			m.dead = now
			if len(m.record.Endpoints) == 0 {
				delete(p.members, name) // it left, or never mattered
				p.left = append(p.left, m.addr)
			}
			p.log.Info("gossip: member gone", "instance", name, "addr", m.addr, "endpoints", len(m.record.Endpoints))
			continue
		}
		r, err := record.Decode(n.meta, name, n.addr.Addr())
		if err != nil {
			p.log.Warn("gossip: unreadable record", "instance", name, "addr", n.addr, "error", err)
			r = record.Record{}
		}
		if m == nil {
			m = &member{}
			p.members[name] = m
			p.log.Info("gossip: member joined", "instance", name, "addr", n.addr)
		}
		changed = append(changed, services(m.record)...)
		*m = member{addr: n.addr, record: r}
		changed = append(changed, services(r)...)
	}
	gone, next, ok := p.expire(now)
	p.publish(append(changed, gone...)...)
	return next, ok
}

// takeLeft returns the addresses of members that left since the last call.
func (p *pool) takeLeft() []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.left
	p.left = nil
	return left
}
