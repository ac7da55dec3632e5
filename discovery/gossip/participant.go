package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
)

const (
	// lookGap is about the time between two looks at how large the pool is. Many processes look at many times, so that the pool has
	// changed its size for the next ones when some have changed their part.
	lookGap = 5 * time.Minute
	// settleTime bounds how long a new part may take to know what the old one did.
	settleTime = 2 * time.Second
)

// Participation is what [Participate] needs.
type Participation struct {
	// Config is what [Join] needs, or without Keys what [Observe] needs: that is how to begin. Later parts have other Instances.
	Config
	// Observe is [Observe], or nil in who is to be a member always: a program that never observes does not have the code for it, 60 KB.
	Observe func(context.Context, Config) (*Observer, error)
	// ObserveBeyond is how many members a pool has before those observe it that announce nothing. In a pool of less than half as many they
	// are members again. 0 makes no observers, but of who has no Keys.
	ObserveBeyond int
	// Enter returns the pool's keys, for an observer that becomes a member, and seeds beside those of Config. It is required when there
	// are no Keys, or ObserveBeyond is set.
	Enter func(ctx context.Context) (keys [][]byte, seeds []string, err error)
	// Changed is told when an observer has become a member, or the other way round; it is to return at once. It may be nil.
	Changed func(observes bool)
}

// A Participant is this process in a pool: a [Member], or an [Observer] while the pool is large and the process announces nothing. Lookups
// go on from one to the other: what was known is known, and who waits for a change is woken. It is a [discovery.Resolver] and a
// [discovery.Registrar], safe for concurrent use.
type Participant struct {
	cfg    Participation
	part   atomic.Pointer[part]
	bundle atomic.Uint64
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  sync.Once

	turn  turn          // held to change the part or what is announced
	ports map[port]bool // what is announced
	over  bool          // after Leave or Close
}

type port struct{ service, name string }

// A part is a member or an observer.
type part struct {
	pool     *pool
	member   *Member   // nil while it observes
	observer *Observer // nil in a member
}

// Participate starts a participant as [Join] or [Observe] do.
func Participate(ctx context.Context, cfg Participation) (*Participant, error) {
	switch observes := len(cfg.Keys) == 0 || cfg.ObserveBeyond > 0; {
	case !observes:
	case cfg.Observe == nil && len(cfg.Keys) == 0:
		return nil, errors.New("gossip: participate: neither Keys nor Observe")
	case cfg.Observe == nil:
		cfg.ObserveBeyond = 0
	case cfg.Enter == nil:
		return nil, errors.New("gossip: participate: no Enter: an observer could not become a member")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.refused = new(tally.Tally)
	p := &Participant{cfg: cfg, turn: make(turn, 1), ports: make(map[port]bool)}
	first, err := p.begin(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	p.part.Store(first)
	p.cfg.Keys, p.cfg.Instance = nil, "" // for the parts to come
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.wg.Go(p.adapt)
	return p, nil
}

func (p *Participant) begin(ctx context.Context, cfg Config) (*part, error) {
	if len(cfg.Keys) == 0 {
		o, err := p.cfg.Observe(ctx, cfg)
		if err != nil {
			return nil, err
		}
		return &part{pool: o.pool, observer: o}, nil
	}
	m, err := Join(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &part{pool: m.pool, member: m}, nil
}

// Lookup implements [discovery.Resolver].
func (p *Participant) Lookup(service string) discovery.Snapshot {
	return p.part.Load().pool.lookup(service)
}

// Await returns once all is known of a service that the pool knows of, as [Observer.Await]; at once in a member.
func (p *Participant) Await(ctx context.Context, service string) {
	if o := p.part.Load().observer; o != nil {
		o.Await(ctx, service)
	}
}

// Register implements [discovery.Registrar], as [Member.Register]. An observer becomes a member by it.
func (p *Participant) Register(ctx context.Context, ep discovery.Endpoint) error {
	return p.announce(ctx, func() error {
		if p.part.Load().member == nil {
			if err := p.enter(ctx); err != nil {
				return fmt.Errorf("gossip: register %s: %w", ep.Service, err)
			}
		}
		if err := p.part.Load().member.Register(ctx, ep); err != nil {
			return err
		}
		p.ports[port{ep.Service, ep.Port}] = true
		return nil
	})
}

// Deregister implements [discovery.Registrar].
func (p *Participant) Deregister(ctx context.Context, ep discovery.Endpoint) error {
	return p.announce(ctx, func() error {
		m := p.part.Load().member
		if m == nil {
			return nil
		}
		if err := m.Deregister(ctx, ep); err != nil {
			return err
		}
		delete(p.ports, port{ep.Service, ep.Port})
		return nil
	})
}

// announce calls f in turn.
func (p *Participant) announce(ctx context.Context, f func() error) error {
	select {
	case p.turn <- struct{}{}:
		defer p.turn.Unlock()
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.over {
		return net.ErrClosed
	}
	return f()
}

// enter makes an observer a member. The turn is held.
func (p *Participant) enter(ctx context.Context) error {
	keys, seeds, err := p.cfg.Enter(ctx)
	if err != nil {
		return fmt.Errorf("becoming a member of the pool: %w", err)
	}
	cfg := p.cfg.Config
	cfg.Keys, cfg.Seeds = keys, append(seeds, cfg.Seeds...)
	for _, addr := range p.part.Load().observer.Through() {
		cfg.Seeds = append(cfg.Seeds, addr.String())
	}
	next, err := p.begin(ctx, cfg)
	if err != nil {
		return err
	}
	next.member.SetBundle(p.bundle.Load())
	p.become(ctx, next)
	return nil
}

// watch makes a member an observer. The turn is held.
func (p *Participant) watch() error {
	next, err := p.begin(p.ctx, p.cfg.Config)
	if err != nil {
		return err
	}
	if len(next.observer.Through()) == 0 {
		return errors.Join(errNobody, next.observer.Close())
	}
	p.become(p.ctx, next)
	return nil
}

// become changes the part, once the next one knows what the one before does. The turn is held.
func (p *Participant) become(ctx context.Context, next *part) {
	old := p.part.Load()
	settle(ctx, old.pool, next.pool)
	p.part.Store(next)
	old.pool.table.Retire()
	p.wg.Go(func() {
		if err := old.end(); err != nil {
			p.cfg.Logger.Warn("gossip: changing from a member to an observer or back", "error", err)
		}
	})
	p.cfg.Logger.Info("gossip: this process takes part in another way", "observes", next.observer != nil, "members", next.poolSize())
	if p.cfg.Changed != nil {
		p.cfg.Changed(next.observer != nil)
	}
}

// settle has next follow what old does, and waits, up to settleTime, until it knows as many good endpoints.
func settle(ctx context.Context, old, next *pool) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	services := old.followed()
	for _, s := range services {
		next.lookup(s)
	}
	for _, s := range services {
		for {
			now := next.lookup(s)
			if good(now) >= good(old.table.Lookup(s)) {
				break
			}
			select {
			case <-now.Changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

func good(s discovery.Snapshot) (n int) {
	for i := range s.Endpoints {
		if !s.Endpoints[i].Suspect {
			n++
		}
	}
	return n
}

// followed are the services that exist and were looked up.
func (p *pool) followed() (all []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.wanted {
		all = append(all, s)
	}
	return all
}

// end ends a part that another one has replaced.
func (r *part) end() error {
	if r.member == nil {
		return r.observer.Close()
	}
	return errors.Join(r.member.Leave(context.Background()), r.member.Close())
}

func (r *part) poolSize() int {
	if r.member == nil {
		return r.observer.PoolSize()
	}
	return r.member.PoolSize()
}

// adapt looks now and then whether the other part fits better.
func (p *Participant) adapt() {
	for {
		wait := lookGap/2 + rand.N(lookGap) //nolint:gosec // jitter, not a secret
		if o := p.part.Load().observer; o != nil && o.obs.isBlind() {
			wait = blindPatience
		}
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := p.look(); err != nil && p.ctx.Err() == nil {
			p.cfg.Logger.Warn("gossip: can't take part in another way", "error", err)
		}
	}
}

func (p *Participant) look() error {
	p.turn.Lock()
	defer p.turn.Unlock()
	now, most := p.part.Load(), p.cfg.ObserveBeyond
	n := now.poolSize()
	switch {
	case p.over:
	case now.member != nil && len(p.ports) == 0 && most > 0 && n > most:
		return p.watch()
	case now.observer != nil && (now.observer.turnedAway() || n > 0 && n < most/2):
		return p.enter(p.ctx)
	}
	return nil
}

// Observes reports whether this process is an observer now.
func (p *Participant) Observes() bool { return p.part.Load().observer != nil }

// PoolSize returns how many members the pool has that live, as far as is known.
func (p *Participant) PoolSize() int { return p.part.Load().poolSize() }

// Instance returns the name of the part that the process has now. No member sees that of an observer.
func (p *Participant) Instance() string { return p.part.Load().pool.name }

// Addr returns where others reach this member's gossip. An observer's is not valid.
func (p *Participant) Addr() netip.AddrPort { return p.part.Load().pool.addr }

// Members returns what is known of the members, as [Member.Members] or [Observer.Members].
func (p *Participant) Members() []MemberInfo {
	r := p.part.Load()
	if r.member == nil {
		return r.observer.Members()
	}
	return r.member.Members()
}

// Isolated reports whether nobody is reached, as [Member.Isolated].
func (p *Participant) Isolated() (Isolation, bool) {
	r := p.part.Load()
	if r.member == nil {
		return r.observer.Isolated()
	}
	return r.member.Isolated()
}

// Refused returns what was refused so far.
func (p *Participant) Refused() Refused { return p.part.Load().pool.refusals() }

// SetBundle says which rules are in force here, as [Member.SetBundle].
func (p *Participant) SetBundle(version uint64) {
	p.bundle.Store(version)
	if m := p.part.Load().member; m != nil {
		m.SetBundle(version)
	}
}

// SetKeys replaces the pool's keys, as [Member.SetKeys]. An observer has none.
func (p *Participant) SetKeys(keys [][]byte) error {
	if m := p.part.Load().member; m != nil {
		return m.SetKeys(keys)
	}
	return nil
}

// Leave takes this process out of the pool, as [Member.Leave].
func (p *Participant) Leave(ctx context.Context) error {
	return p.announce(ctx, func() error {
		p.over = true
		if m := p.part.Load().member; m != nil {
			return m.Leave(ctx)
		}
		return nil
	})
}

// Close ends it, and waits until nothing of it runs. Lookups answer what was known last. Calling it again does nothing.
func (p *Participant) Close() error {
	var err error
	p.close.Do(func() {
		p.cancel()
		p.turn.Lock()
		p.over = true
		p.turn.Unlock()
		p.wg.Wait()
		if r := p.part.Load(); r.member == nil {
			err = r.observer.Close()
		} else {
			err = r.member.Close()
		}
	})
	return err
}
