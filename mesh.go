package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/busypoll"
	"github.com/intramesh/mesh/internal/names"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A Config says who joins and what it builds on. [Join] copies it.
type Config struct {
	// Service is the name that others dial; it must be the one in the certificate. Empty means the
	// certificate's.
	Service string
	// Bootstrap reaches a control plane; it fills whichever of the next three is nil.
	Bootstrap *Bootstrap
	// Identity holds the certificate to show and the authorities to trust: a source of package identity, or any
	// of go-spiffe. Whoever made it closes it, after the mesh.
	Identity identity.Source
	// Discovery finds the endpoints of services. If it is a discovery.Registrar too, Listen announces to it. Whoever
	// made it closes it, after the mesh. If it has the Await of [gossip.Observer], calls to a service that it does not know wait for that.
	Discovery discovery.Resolver
	// Observe is [gossip.Observe] in a process that only dials: where the pool of the Bootstrap is large (observe_beyond of the control
	// plane's settings), it then observes the pool instead of being one of it, until it calls Listen. Nil makes a member at once.
	Observe func(context.Context, gossip.Config) (*gossip.Observer, error)
	// AlsoDiscovery is given Discovery, or the gossip of the Bootstrap, and returns what is used instead. It is for services
	// that somebody else lists, such as Kubernetes: discovery.Behind(source). What it returns is closed by the mesh if it is
	// an io.Closer; the source by whoever made it, after the mesh. It may be nil.
	AlsoDiscovery func(discovery.Resolver) discovery.Resolver
	// Policy decides who may call this service. Nil, without a Bootstrap, denies everybody.
	Policy policy.Authorizer
	// Also is asked whenever Policy, or the rules of the Bootstrap, have allowed: both must. It is for what no rule can say, and
	// called as [policy.Then] has it. Nil asks nobody.
	Also policy.AuthorizerFunc
	// Tokens verifies the JSON Web Tokens of requests when a rule looks at their claims; see package policy/jwt. Nil leaves
	// claims unavailable: such a rule then allows nothing, and denies. Whoever made it closes it, after the mesh.
	Tokens policy.TokenVerifier

	// Advertise is the IP address that others reach this process by. Empty means the address of the listener, or, for a
	// listener on all addresses, the one that faces the control plane.
	Advertise string
	// AlsoAdvertise are other IP addresses of this process, in the order to try them when Advertise does not answer: that of IPv6 beside
	// the one of IPv4, or of another network; three at most. They are announced with every listener's port.
	AlsoAdvertise []string
	// Zone is where this process is: "eu-west-1a", or, if there are several regions, "eu-west-1/eu-west-1a". It is announced, and what
	// is dialed is looked for here first: see balance.Shares. It may be empty.
	Zone string
	// StateDir keeps certificate, rules and known members over a restart, so that the control plane need not be there
	// then. One directory belongs to one process: Join fails where another one has it. It is made with mode 0700. Empty keeps nothing,
	// and a restart needs a new token.
	StateDir string

	// Logger gets what an operator should know; nil drops it. Denials and cut connections are written at most ten a
	// second, after a burst of a hundred; see [Mesh.Stats] for all of them.
	Logger *slog.Logger
	// LogAllowed logs one in so many allowed decisions too; 0 logs none.
	LogAllowed int
	// Trace gets every event; it may be nil.
	Trace *Trace
	// Network makes the connections. Nil is the operating system's: TCP and, between processes of one user in one network namespace of
	// Linux, Unix sockets. &struct{net.Dialer; net.ListenConfig}{} is TCP alone.
	Network Network
	// NoBusyPoll puts whoever waits for an answer to sleep at once. Otherwise, where the answers of a connection keep coming within 60 µs and
	// a processor is free, its reader looks for them that long first: see docs/performance.md.
	NoBusyPoll bool
}

// A Mesh is this process's place in the mesh. Make one with [Join], end it with [Mesh.Shutdown] or [Mesh.Close].
// It is safe for concurrent use.
type Mesh struct {
	cfg         Config
	service     string
	trustDomain spiffeid.TrustDomain
	identity    identity.Source
	credential  *identity.Credential
	discovery   discovery.Resolver
	gossip      *gossip.Participant // nil outside of a pool
	policy      policy.Authorizer
	log         *slog.Logger
	trace       *Trace
	advertise   netip.Addr
	also        discovery.AddrList
	facing      netip.Addr                                // the local address that faces the control plane
	await       func(ctx context.Context, service string) // nil, or returns when all is known of a service
	rules       *policy.Syncer                            // nil when Config.Policy is set
	sameHost    *sameHost                                 // nil when Config.Network is set

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	wg        sync.WaitGroup // our goroutines
	buffers   *buffers
	conns     *connTable
	expiries  expiries
	decisions *decisionLog
	// headersUnused is what the last decision about a request said: what to expect of the next.
	headersUnused atomic.Bool
	dialed        dialedConns
	farewells     farewells
	warm          warm
	inflights     sync.Pool // of *inflight
	generation    atomic.Pointer[generation]
	announced     bool // the identity announces changes of the trust bundle
	refusals      refusals
	polling       *busypoll.Group // nil for none
	kept          atomic.Int32    // refused HTTP connections
	balance       *balancers
	control       controlConn
	keys          poolKeys
	observeBeyond int // as the control plane has it, as is what follows
	probeInterval time.Duration
	ready         readiness

	draining      chan struct{}
	drainingSince atomic.Pointer[time.Time] // nil before draining is closed: for those who ask often

	drainOnce sync.Once
	closeOnce sync.Once
	closers   []func(context.Context) error // what Join made, in order; closed in reverse

	mu        sync.Mutex
	closed    bool
	listeners map[string]*listener // by named port
	deferred  map[string]bool      // ports whose requests are decided one by one
	warnings  warnings
	// What a program without HTTP need not link is reached by these alone.
	web        any // an [http.RoundTripper], made by the first Transport
	closeHTTP  func()
	refuseHTTP func(context.Context, *serverConn, *tls.Conn, *DeniedError) // set by DeferToRequests
}

// Join makes this process a member of the mesh: it gets an identity, finds the other members and the rules. Afterwards
// Dial and Listen work. ctx bounds the joining alone.
//
// With a Bootstrap, everything comes from a control plane; when that can't be reached and StateDir holds what an
// earlier run learnt, Join succeeds without it. Otherwise Identity is required.
func Join(ctx context.Context, cfg Config) (*Mesh, error) {
	m, err := newMesh(cfg)
	if err != nil {
		return nil, fmt.Errorf("mesh: join: %w", err)
	}
	if err := m.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("mesh: join: %w", err), m.Close())
	}
	return m, nil
}

func newMesh(cfg Config) (*Mesh, error) {
	if cfg.Bootstrap == nil && cfg.Identity == nil {
		return nil, errors.New("no identity: set Config.Bootstrap (see BootstrapFromEnv) or Config.Identity")
	}
	if cfg.Service != "" {
		if err := names.CheckService(cfg.Service); err != nil {
			return nil, fmt.Errorf("Config.Service: %w", err)
		}
	}
	if cfg.Bootstrap != nil {
		if err := cfg.Bootstrap.check(); err != nil {
			return nil, fmt.Errorf("Config.Bootstrap: %w", err)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	var host *sameHost
	if cfg.Network == nil {
		cfg.Network, host = &systemNetwork{}, newSameHost()
	}
	m := &Mesh{
		cfg: cfg, log: cfg.Logger, trace: cfg.Trace, sameHost: host,
		identity: cfg.Identity, discovery: cfg.Discovery, policy: cfg.Policy,
		buffers: newBuffers(), decisions: newDecisionLog(cfg.Logger, cfg.LogAllowed), conns: newConnTable(), draining: make(chan struct{}),
		listeners: make(map[string]*listener), deferred: make(map[string]bool),
	}
	if !cfg.NoBusyPoll {
		m.polling = busypoll.NewGroup(runtime.GOMAXPROCS(0))
	}
	if a, ok := cfg.Discovery.(awaiter); ok {
		m.await = a.Await
	}
	if cfg.Advertise != "" {
		a, err := netip.ParseAddr(cfg.Advertise)
		if err != nil {
			return nil, fmt.Errorf("Config.Advertise: %w", err)
		}
		m.advertise = a.Unmap()
	}
	var err error
	if m.also, err = parseAlso(cfg.AlsoAdvertise); err != nil {
		return nil, fmt.Errorf("Config.AlsoAdvertise: %w", err)
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.warm.mesh = m
	m.generation.Store(new(generation))
	return m, nil
}

func (m *Mesh) start(ctx context.Context) error {
	if err := m.lockState(); err != nil {
		return err
	}
	if b := m.cfg.Bootstrap; b != nil && m.identity == nil {
		if err := m.enrol(ctx, b); err != nil {
			return err
		}
	}
	m.credential = identity.NewCredential(m.identity)
	svid, err := m.identity.GetX509SVID()
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	m.trustDomain, m.service = svid.ID.TrustDomain(), identity.ServiceName(svid.ID)
	if m.service == "" {
		return fmt.Errorf("identity: %s names no service", svid.ID)
	}
	if b := m.cfg.Bootstrap; b != nil && b.TrustDomain != m.trustDomain.Name() {
		return fmt.Errorf("the bootstrap is for trust domain %s, but the certificate is that of %s", b.TrustDomain, svid.ID)
	}
	if want := m.cfg.Service; want != "" && want != m.service {
		return fmt.Errorf("Config.Service is %q, but the certificate is that of %s", want, svid.ID)
	}
	if err := m.openPolicy(); err != nil {
		return err
	}
	if b := m.cfg.Bootstrap; b != nil {
		if err := m.connect(ctx, b); err != nil {
			return err
		}
	}
	if m.balance == nil {
		m.discover()
		m.balance = newBalancers(m.discovery, m.cfg.Zone)
	}
	rules, trust := changed(m.policy), changed(m.identity)
	m.announced = trust != nil
	m.generation.Store(&generation{number: 1, rules: rules, trust: trust})
	m.spawn(func() { m.watch(m.ctx) })
	m.log.Info("joined the mesh", "service", m.service, "trust_domain", m.trustDomain.Name())
	return nil
}

// discover completes what is known with Config.AlsoDiscovery.
func (m *Mesh) discover() {
	if m.discovery == nil {
		m.discovery = static.New()
	}
	if also := m.cfg.AlsoDiscovery; also != nil {
		m.discovery = also(m.discovery)
		if c, ok := m.discovery.(io.Closer); ok {
			m.closers = append(m.closers, func(context.Context) error { return c.Close() })
		}
	}
}

// openPolicy makes the Authorizer. With a Bootstrap it begins with the last good rules, before the first handshake: they may
// revoke who answers.
func (m *Mesh) openPolicy() error {
	if b := m.cfg.Bootstrap; b != nil && m.policy == nil {
		if err := m.openRules(b); err != nil {
			return err
		}
	}
	if m.policy == nil {
		m.policy = policy.AuthorizerFunc(denyUnset)
	}
	if m.cfg.Also != nil {
		m.policy = policy.Then(m.policy, "application", m.cfg.Also)
	}
	return nil
}

func denyUnset(_ context.Context, r *policy.Request) policy.Decision {
	return policy.Decision{Rule: -1, Layer: r.Layer, Reason: "this process has no rules: neither Config.Policy nor Config.Bootstrap is set"}
}

// ID returns the SPIFFE ID of this process.
func (m *Mesh) ID() spiffeid.ID { return m.idOf(m.service) }

// Discovery returns the resolver in use, for adapters.
func (m *Mesh) Discovery() discovery.Resolver { return m.discovery }

// Await returns once Discovery knows what there is to know of a service, for adapters: at once, but in a process that observes the gossip
// when nobody has asked for the service before. It takes two seconds at most, and not longer than ctx.
func (m *Mesh) Await(ctx context.Context, service string) {
	if m.await != nil {
		m.await(ctx, service)
	}
}

// Logger returns the logger in use, never nil.
func (m *Mesh) Logger() *slog.Logger { return m.log }

// Draining returns a channel that is closed when Shutdown or Close begins: time to report not ready.
func (m *Mesh) Draining() <-chan struct{} { return m.draining }

// Done returns a channel that is closed when the mesh is closed.
func (m *Mesh) Done() <-chan struct{} { return m.ctx.Done() }

// spawn runs f in a goroutine that Close waits for. Once Close has begun it does not run f.
func (m *Mesh) spawn(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.wg.Go(f)
	}
}

// attend runs f in the present goroutine, a timer's, as spawn does in a new one.
func (m *Mesh) attend(f func()) {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	m.wg.Add(1)
	m.mu.Unlock()
	f()
	m.wg.Done()
}

// drainPause is how long Shutdown keeps accepting after it has announced that it drains, so that the news overtakes
// the last connections.
const drainPause = 500 * time.Millisecond

// Shutdown leaves without failing anybody's request: it announces that this process drains, keeps accepting for half a
// second, closes the listeners, waits until the connections and requests under way have ended, and then closes everything
// as Close does. When ctx ends first it closes what is left and returns ctx's error.
func (m *Mesh) Shutdown(ctx context.Context) error {
	m.drains()
	err := m.drain(ctx)
	return errors.Join(err, m.close(ctx))
}

func (m *Mesh) drain(ctx context.Context) error {
	listeners := m.allListeners()
	if len(listeners) > 0 {
		for _, l := range listeners {
			l.lot.empty()
			if err := m.announce(ctx, l); err != nil {
				m.log.Warn("could not announce that this process drains", "port", l.port, "error", err)
			}
		}
		m.endBrief(nil)
		select {
		case <-time.After(drainPause):
		case <-ctx.Done():
		}
		for _, l := range listeners {
			_ = l.Close()
		}
	}
	idle := m.conns.close()
	tick := time.NewTicker(flushTime / 2)
	defer tick.Stop()
	for {
		for _, sc := range m.conns.all() {
			sc.closeIfIdle()
		}
		select {
		case <-idle:
			if m.conns.detached.Load() == 0 {
				return nil
			}
			idle = nil // clients have left, and the application is not done
		case <-tick.C:
			if idle == nil && m.conns.detached.Load() == 0 {
				return nil
			}
		case <-m.ctx.Done():
			return nil // Close was called meanwhile
		case <-ctx.Done():
			return fmt.Errorf("mesh: shutdown: %d connections were still open: %w", len(m.conns.all()), ctx.Err())
		}
	}
}

// Close ends everything now: listeners, connections, gossip. It returns when nothing of the mesh is left running.
// Closing twice is harmless.
func (m *Mesh) Close() error {
	m.drains()
	// A closed mesh still says goodbye, briefly: others need not find out by themselves.
	ctx, cancel := context.WithTimeoutCause(context.Background(), time.Second, errBriefly)
	defer cancel()
	return m.close(ctx)
}

// errBriefly ends the goodbye of Close, which is no error: the others find out by themselves.
var errBriefly = errors.New("mesh: closing waits no longer")

func (m *Mesh) close(ctx context.Context) error {
	var err error
	m.closeOnce.Do(func() {
		m.cancel()
		for _, l := range m.allListeners() {
			_ = l.Close()
		}
		m.mu.Lock()
		m.closed = true
		m.mu.Unlock()
		idle := m.conns.close()
		for _, sc := range m.conns.all() {
			_ = sc.close()
		}
		m.mu.Lock()
		closeHTTP := m.closeHTTP
		m.mu.Unlock()
		if closeHTTP != nil {
			closeHTTP()
		}
		m.warm.close()
		m.dialed.close()
		<-idle
		m.wg.Wait()
		if m.rules != nil {
			err = m.rules.Close() // before what it asks for rules
		}
		for _, c := range slices.Backward(m.closers) {
			err = errors.Join(err, c(ctx))
		}
		m.log.Info("left the mesh", "service", m.service)
	})
	return err
}
