package gossip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
)

// An Observer finds services through some members of a pool, without being one: its cost does not grow with the pool, only with what it
// looks up. It announces nothing, listens nowhere, and has none of the pool's keys. It is a [discovery.Resolver], safe for concurrent use.
type Observer struct {
	cfg    Config
	pool   *pool
	obs    *observer
	peers  *peers
	alone  alone
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  sync.Once
}

const (
	// blindPatience is how long nobody needs to be there to observe through before all that is known becomes suspect.
	blindPatience = 30 * time.Second
	// awaitTimeout bounds [Observer.Await].
	awaitTimeout = 2 * time.Second
)

// Observe starts an observer and waits until a member has answered, at most [Config.JoinTimeout] long; after that it goes on trying, as
// [Join] does. Of the Config it uses Identity, which is required, Seeds, Resolver, Dir, Logger, Network, and the times for joining and suspects.
//
// It follows each service that is looked up through two members at a time. They hand on the signed records themselves, which are
// verified as [Join] describes: nobody can announce for another. Of whether a member lives the worse is believed of what the two say, and
// it is forgotten when they agree. What one withholds, the other tells; only if both withhold it, an endpoint is not seen, until others take their
// turn after a quarter of an hour. One that says nothing for four seconds is replaced at once.
func Observe(ctx context.Context, cfg Config) (*Observer, error) {
	cfg, err := cfg.withDefaults()
	if err == nil && cfg.Identity == nil {
		err = errors.New("no Identity: members are observed over mutual TLS alone")
	}
	if err != nil {
		return nil, fmt.Errorf("gossip: observe: %w", err)
	}
	m := &Observer{cfg: cfg}
	if m.peers, err = loadPeers(cfg.Dir, cfg.Logger); err != nil {
		return nil, fmt.Errorf("gossip: observe: %w", err)
	}
	if m.pool, err = newPool(cfg, netip.AddrPort{}); err != nil {
		return nil, fmt.Errorf("gossip: observe: %w", err)
	}
	m.pool.prove = cfg.prove
	m.obs = newObserver(m)
	m.pool.observer = m.obs
	running, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.wg.Go(func() { m.pool.run(running) })
	m.wg.Go(func() { m.tend(running) })
	for i := range upstreams {
		m.wg.Go(func() { m.obs.keep(running, i) })
	}
	timeout := time.NewTimer(m.cfg.JoinTimeout)
	defer timeout.Stop()
	select {
	case <-m.obs.greeted:
	case <-timeout.C:
	case <-ctx.Done():
		return nil, fmt.Errorf("gossip: observe: %w", errors.Join(ctx.Err(), m.Close()))
	}
	return m, nil
}

// tend does now and then what has no other occasion.
func (m *Observer) tend(ctx context.Context) {
	tick := time.NewTicker(m.cfg.RejoinInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		m.pool.recheck(now)
		m.pool.mu.Lock()
		if since := m.obs.alone; !since.IsZero() && now.Sub(since) >= blindPatience {
			m.obs.doubtAll(now)
		}
		m.pool.mu.Unlock()
		if err := m.remember(now); err != nil {
			m.cfg.Logger.Warn("gossip: peers not saved", "error", err)
		}
	}
}

// remember keeps the members that are known for later.
func (m *Observer) remember(now time.Time) error {
	living := m.pool.living()
	m.pool.mu.Lock()
	for _, u := range m.obs.up {
		for _, f := range u.peers {
			living = append(living, f.Addr)
		}
	}
	m.pool.mu.Unlock()
	m.peers.see(living, m.pool.takeLeft(), now)
	return m.peers.save()
}

// Lookup implements [discovery.Resolver]. The first one of a service asks for it, and knows nothing yet; see [Observer.Await].
func (m *Observer) Lookup(service string) discovery.Snapshot { return m.pool.lookup(service) }

// Await returns once a member has told what it knows of the service, when ctx is done, or after two seconds: what Lookup returns then is
// what there is.
func (m *Observer) Await(ctx context.Context, service string) {
	m.pool.lookup(service)
	m.pool.mu.Lock()
	in := m.obs.interests[service]
	m.pool.mu.Unlock()
	if in == nil {
		return
	}
	timeout := time.NewTimer(awaitTimeout)
	defer timeout.Stop()
	select {
	case <-in.answered:
	case <-timeout.C:
	case <-ctx.Done():
	}
}

// Through returns the members that are observed through now, by their gossip addresses.
func (m *Observer) Through() []netip.AddrPort {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	var all []netip.AddrPort
	for _, u := range m.obs.up {
		if u.addr.IsValid() {
			all = append(all, u.addr)
		}
	}
	return all
}

// PoolSize returns how many members the pool had that live when one of them said so last, 0 before that.
func (m *Observer) PoolSize() int {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.obs.size
}

// Members returns what is known of members that live or did: those of services that are looked up, and a few others.
func (m *Observer) Members() []MemberInfo {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	all, known := p.infos(), make(map[string]bool)
	for name := range p.members {
		known[name] = true
	}
	for _, u := range m.obs.up {
		for _, f := range u.peers {
			r, err := record.Decode(f.Meta, f.Name, f.Addr.Addr())
			if err != nil || known[f.Name] {
				continue
			}
			known[f.Name] = true
			all = append(all, MemberInfo{Instance: f.Name, Addr: f.Addr, Endpoints: r.Endpoints, Bundle: r.Bundle})
		}
	}
	return all
}

// turnedAway reports whether there has been nobody to observe through for blindPatience, and members who have no room.
func (m *Observer) turnedAway() bool {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	now, o := time.Now(), m.obs
	return !o.alone.IsZero() && now.Sub(o.alone) >= blindPatience && now.Sub(o.crowded) < lookGap
}

// Isolated reports whether there is nobody to observe through, as [Member.Isolated].
func (m *Observer) Isolated() (Isolation, bool) { return m.alone.isolation() }

// Refused returns what was refused so far.
func (m *Observer) Refused() Refused { return m.pool.refusals() }

// Close ends the observer and waits until nothing of it runs. Lookups answer what was known last. Calling it again does nothing.
func (m *Observer) Close() error {
	var err error
	m.close.Do(func() {
		m.cancel()
		m.wg.Wait()
		err = m.remember(time.Now())
	})
	if err != nil {
		return fmt.Errorf("gossip: close: %w", err)
	}
	return nil
}
