package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/guard"
	"github.com/intramesh/mesh/discovery/gossip/internal/transport"
	"github.com/intramesh/mesh/internal/pace"
)

// A Member is this process in the pool: a [discovery.Resolver] and a [discovery.Registrar]. It is
// safe for concurrent use.
type Member struct {
	cfg    Config
	addr   netip.AddrPort
	pool   *pool
	list   *memberlist.Memberlist
	wire   *transport.Transport
	sealer *transport.Sealer
	peers  *peers
	joined chan struct{}
	alone  alone
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  sync.Once

	mu      turn          // serializes what is announced
	goodbye chan struct{} // closed when Leave is done, nil before it was called
	closed  bool
}

// A turn is a mutex that may be held while waiting for memberlist: a test in virtual time sees that nothing happens.
type turn chan struct{}

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

// Join starts a member and waits until it reached another one, at most [Config.JoinTimeout] long. If
// it reaches none by then it goes on trying, and Join succeeds: a
// process must be able to start before its seeds do. See [Member.Joined], and [Member.Isolated] for who does not answer, which is
// logged too, again and again while it lasts. The error is about the configuration, the sockets or ctx.
func Join(ctx context.Context, cfg Config) (*Member, error) {
	m, err := start(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("gossip: join: %w", err)
	}
	if !m.hasCandidates() {
		return m, nil
	}
	timeout := time.NewTimer(m.cfg.JoinTimeout)
	defer timeout.Stop()
	select {
	case <-m.joined:
	case <-timeout.C:
	case <-ctx.Done():
		return nil, fmt.Errorf("gossip: join: %w", errors.Join(ctx.Err(), m.Close()))
	}
	return m, nil
}

func start(ctx context.Context, cfg Config) (*Member, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if len(cfg.Keys) == 0 {
		return nil, errors.New("no key: gossip is never sent in the clear")
	}
	sealer, err := transport.NewSealer(cfg.Keys, cfg.Label)
	if err != nil {
		return nil, err
	}
	peers, err := loadPeers(cfg.Dir, cfg.Logger)
	if err != nil {
		return nil, err
	}
	packets, ln, addr, err := cfg.listen(ctx)
	if err != nil {
		return nil, err
	}
	m := &Member{cfg: cfg, addr: addr, peers: peers, sealer: sealer, joined: make(chan struct{}), mu: make(turn, 1)}
	if m.pool, err = newPool(cfg, addr); err != nil {
		return nil, errors.Join(err, packets.Close(), ln.Close())
	}
	m.pool.prove = cfg.prove
	list := m.listConfig()
	t := transport.New(transport.Config{
		Observe: m.pool.serveObserver,
		Packets: packets, Listener: ln, Dial: cfg.Network.DialContext, Advertise: addr, Sealer: sealer, Identity: cfg.Identity, Logger: cfg.Logger, Refused: m.pool.refused,
		Guard: guard.New(guard.Config{Name: cfg.Instance, Addr: addr, Versions: list.BuildVsnArray(), Logger: cfg.Logger, Refused: m.pool.refused}),
	})
	list.Transport, m.wire = t, t
	if m.list, err = memberlist.Create(list); err != nil {
		return nil, errors.Join(err, t.Shutdown())
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.wg.Go(func() { m.pool.run(m.ctx) })
	m.wg.Go(m.stayJoined)
	m.wg.Go(m.staySynced)
	return m, nil
}

// dialer opens streams to other members.
func (c Config) dialer() transport.Dialer {
	return transport.Dialer{Dial: c.Network.DialContext, Identity: c.Identity}
}

// listConfig sets every field that memberlist's defaults would leave to chance.
func (m *Member) listConfig() *memberlist.Config {
	c := pace.List(m.cfg.ProbeInterval, m.cfg.GossipInterval)
	c.Name = m.cfg.Instance
	c.BindPort, c.AdvertisePort = int(m.addr.Port()), int(m.addr.Port())
	c.AdvertiseAddr = m.addr.Addr().String()
	c.TCPTimeout = transport.StreamTimeout
	c.Delegate = m.pool
	c.Events = m.pool
	c.Logger = listLogger(m.cfg.Logger)
	return c
}

// Instance returns the name that the member is known by.
func (m *Member) Instance() string { return m.cfg.Instance }

// Addr returns where others reach the member's gossip. It is a seed for them.
func (m *Member) Addr() netip.AddrPort { return m.addr }

// Joined is closed once another member was reached, by Join or after it.
func (m *Member) Joined() <-chan struct{} { return m.joined }

// Lookup implements [discovery.Resolver].
func (m *Member) Lookup(service string) discovery.Snapshot { return m.pool.lookup(service) }

// Register implements [discovery.Registrar]. An endpoint whose Addr has an unspecified IP is announced
// with the member's own, one without Zone with [Config.Zone]. Everything that a member announces
// must fit one record of 512 bytes, which holds about 25 endpoints; the error is a
// [*FullError] when it does not. After Leave or Close it is net.ErrClosed.
func (m *Member) Register(ctx context.Context, ep discovery.Endpoint) error {
	if err := m.announce(ctx, func() (bool, error) { return m.pool.register(ep) }); err != nil {
		return fmt.Errorf("gossip: register %s: %w", ep.Service, err)
	}
	return nil
}

// Deregister implements [discovery.Registrar].
func (m *Member) Deregister(ctx context.Context, ep discovery.Endpoint) error {
	if err := m.announce(ctx, func() (bool, error) { return m.pool.deregister(ep) }); err != nil {
		return fmt.Errorf("gossip: deregister %s: %w", ep.Service, err)
	}
	return nil
}

// SetBundle says which version of the rules is in force here, for [MemberInfo.Bundle]. It is announced within two
// RejoinIntervals, and with the next change, unless some others announce it already.
func (m *Member) SetBundle(version uint64) {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	m.pool.bundle = version
}

// announce makes a change and sends it on its way.
func (m *Member) announce(ctx context.Context, change func() (changed bool, err error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.goodbye != nil || m.closed {
		return net.ErrClosed
	}
	if changed, err := change(); err != nil || !changed {
		return err
	}
	// The news is queued when the wait begins; a wait of 0 would last until it was sent.
	_ = m.list.UpdateNode(1) // always times out
	return nil
}

// Leave withdraws what the member announced and says goodbye, so that the others forget it
// at once. It waits until that was sent, at most until ctx is done or 5 s, usually less than one. Lookups
// go on; Close is still to be called. Calling Leave again, or after Close, does nothing.
func (m *Member) Leave(ctx context.Context) error {
	m.mu.Lock()
	if m.goodbye != nil || m.closed {
		m.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	m.goodbye = done
	tell, failed := m.pool.withdraw()
	m.mu.Unlock()
	m.wg.Go(func() {
		defer close(done)
		err := failed
		if tell { // the goodbye would replace a withdrawal, ours or Deregister's, that is still on its way
			for range pace.Withdrawals {
				err = errors.Join(err, m.list.UpdateNode(pace.LeavePatience))
				m.pause(pace.PassOnRounds * m.cfg.GossipInterval)
			}
		}
		if err := errors.Join(err, m.list.Leave(pace.LeavePatience)); err != nil {
			m.cfg.Logger.Warn("gossip: some may not have heard that we left", "error", err)
		}
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("gossip: leave: %w", ctx.Err())
	}
}

// pause waits, unless the member is closed meanwhile.
func (m *Member) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-m.ctx.Done():
	}
}

// Close ends the member. Without [Member.Leave] before it, the others take it for
// crashed. It waits until its goroutines have ended, and until memberlist's have nothing
// left to wait for. Lookups answer what was known last. Calling it again does nothing.
func (m *Member) Close() error {
	var err error
	m.close.Do(func() { err = m.shutdown() })
	if err != nil {
		return fmt.Errorf("gossip: close: %w", err)
	}
	return nil
}

func (m *Member) shutdown() error {
	m.cancel()
	m.mu.Lock()
	m.closed = true
	goodbye := m.goodbye
	m.mu.Unlock()
	if goodbye != nil {
		<-goodbye // memberlist panics if it is shut down before
	}
	err := m.list.Shutdown()
	m.wg.Wait()
	m.pool.apply(time.Now())
	return errors.Join(err, m.remember())
}
