package gossip_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/intramesh/mesh/internal/testca"
)

func (d *domain) observer(t *testing.T, seeds ...string) *gossip.Observer {
	t.Helper()
	return startObserver(t, gossip.Config{Network: d.host("10.9.9.9"), Seeds: seeds, Identity: d.credential(t, "orders")})
}

func startObserver(t testing.TB, cfg gossip.Config) *gossip.Observer {
	t.Helper()
	o, err := gossip.Observe(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// seen returns the addresses that a resolver knows, those of suspects with a "?".
func seen(r discovery.Resolver) []string {
	var all []string
	for _, ep := range r.Lookup("payments").Endpoints {
		s := ep.Addr.Addr().String()
		if ep.Suspect {
			s += "?"
		}
		all = append(all, s)
	}
	return sorted(all)
}

// sees waits until r sees want, and returns how long that took. It fails after d of the bubble's time.
func sees(t *testing.T, r discovery.Resolver, d time.Duration, want ...string) time.Duration {
	t.Helper()
	start, timeout := time.Now(), time.After(d)
	for {
		changed := r.Lookup("payments").Changed
		if slices.Equal(seen(r), want) {
			return time.Since(start)
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("after %v it sees payments at %v, want %v", d, seen(r), want)
		}
	}
}

// keeps fails if r sees anything but want within d.
func keeps(t *testing.T, r discovery.Resolver, d time.Duration, want ...string) {
	t.Helper()
	timeout := time.After(d)
	for {
		changed := r.Lookup("payments").Changed
		if got := seen(r); !slices.Equal(got, want) {
			t.Fatalf("it sees %v, want %v", got, want)
		}
		select {
		case <-changed:
		case <-timeout:
			return
		}
	}
}

func TestObserve(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		d.member(t, "ledger", ipA)
		b, c := d.member(t, "payments", ipB, seedA), d.member(t, "payments", ipC, seedA)
		b.serve(t, "payments")
		<-time.After(time.Second)
		o := d.observer(t, seedA)
		if got := seen(o); len(got) > 0 {
			t.Errorf("nobody was asked yet, and it knows %v", got)
		}
		o.Await(t.Context(), "payments")
		if len(o.Lookup("payments").Endpoints) != 1 {
			t.Error("not known though the answer was awaited")
		}
		sees(t, o, time.Second, ipB)
		before := time.Now()
		if o.Await(t.Context(), "nobody"); time.Since(before) > time.Second {
			t.Error("that there is nobody was not answered")
		}
		c.serve(t, "payments")
		t.Logf("a new one is seen after %v", sees(t, o, time.Second, ipB, ipC))
		draining := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort(ipB + ":443"), State: discovery.Draining}
		if err := b.Register(t.Context(), draining); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Second)
		if eps := o.Lookup("payments").Endpoints; len(eps) != 2 || !slices.ContainsFunc(eps, func(ep discovery.Endpoint) bool { return ep.State == discovery.Draining && !ep.Suspect }) {
			t.Errorf("got %+v", eps)
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		sees(t, o, time.Second, ipC)
		if n := len(o.Through()); n != 2 {
			t.Errorf("it observes through %d members", n)
		}
		if got := o.Refused(); got != (gossip.Refused{}) {
			t.Errorf("refused %+v", got)
		}
		for _, n := range []*node{b, c} {
			for _, m := range n.Members() {
				if m.Addr.Addr().String() == "10.9.9.9" {
					t.Error("the observer is a member")
				}
			}
		}
	})
}

// The member that is observed through crashes, one that serves crashes, and the last one is kept.
func TestObserverFailsOver(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		nodes := map[string]*node{ipA: d.member(t, "ledger", ipA)}
		for _, ip := range []string{ipB, ipC, "10.0.0.4", "10.0.0.5"} {
			nodes[ip] = d.member(t, "ledger", ip, seedA)
		}
		p, q := d.member(t, "payments", "10.0.1.1", seedA), d.member(t, "payments", "10.0.1.2", seedA)
		p.serve(t, "payments")
		q.serve(t, "payments")
		o := d.observer(t, seedA)
		sees(t, o, 2*time.Second, "10.0.1.1", "10.0.1.2")
		for range 3 {
			<-time.After(10 * time.Second)
			for _, up := range o.Through() {
				if n := nodes[up.Addr().String()]; n != nil {
					n.host.kill()
					break
				}
			}
			keeps(t, o, 20*time.Second, "10.0.1.1", "10.0.1.2")
			if len(o.Through()) == 0 {
				t.Fatal("nobody to observe through")
			}
		}
		<-time.After(time.Minute)
		q.host.kill()
		took := sees(t, o, 6*time.Second, "10.0.1.1", "10.0.1.2?")
		t.Logf("a crash is seen after %v", took)
		sees(t, o, 3*time.Minute, "10.0.1.1")
		p.host.kill()
		sees(t, o, 8*time.Second, "10.0.1.1?")
		keeps(t, o, 5*time.Minute, "10.0.1.1?")
	})
}

// Nobody is there at the start; and while nobody is there later, what was known is kept, and doubted.
func TestObserverAlone(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		o := d.observer(t, seedA)
		if _, alone := o.Isolated(); !alone {
			t.Error("it does not say that nobody answers")
		}
		d.member(t, "payments", ipA).serve(t, "payments")
		d.member(t, "ledger", ipB, seedA)
		sees(t, o, 15*time.Second, ipA)
		if _, alone := o.Isolated(); alone {
			t.Error("it says that nobody answers")
		}
		me := netip.MustParseAddr("10.9.9.9")
		<-time.After(time.Minute)
		f.setCut(func(from, to netip.Addr) bool { return from == me || to == me })
		keeps(t, o, 3*time.Second, ipA)
	})
}

// A pool without identities serves nobody, and nobody observes without one.
func TestObserversNeedIdentities(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		if o, err := gossip.Observe(t.Context(), gossip.Config{Network: f.host("10.9.9.9"), Seeds: []string{seedA}}); err == nil {
			_ = o.Close()
			t.Error("no identity, and yet")
		}
		d, foreign := f.domain(t, "example.test"), f.domain(t, "other.test")
		d.member(t, "payments", ipA).serve(t, "payments")
		o := foreign.observer(t, seedA)
		keeps(t, o, 10*time.Second)
		if len(o.Through()) > 0 {
			t.Error("a stranger may observe")
		}
	})
}

// several announces each service as a member of its own, since a certificate is for one service.
type several struct {
	t    testing.TB
	cred func(service string) gossip.Identity
	seed func() []string

	mu      sync.Mutex
	members map[string]*gossip.Member
	left    bool
}

func (s *several) of(service string) (*gossip.Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return nil, net.ErrClosed
	}
	if s.members[service] == nil {
		cfg := config(s.seed()...)
		cfg.Identity = s.cred(service)
		s.members[service] = join(s.t, cfg)
	}
	return s.members[service], nil
}

func (s *several) Register(ctx context.Context, ep discovery.Endpoint) error {
	service := ep.Service
	if service == "" {
		service = "payments" // which is to refuse it
	}
	m, err := s.of(service)
	if err != nil {
		return err
	}
	return m.Register(ctx, ep)
}

func (s *several) Deregister(ctx context.Context, ep discovery.Endpoint) error {
	m, err := s.of(ep.Service)
	if err != nil {
		return err
	}
	return m.Deregister(ctx, ep)
}

func (s *several) leave(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
	for _, m := range s.members {
		if err := m.Leave(ctx); err != nil {
			return err
		}
	}
	return nil
}

func TestObserverConformance(t *testing.T) {
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString("example.test"))
	if err != nil {
		t.Fatal(err)
	}
	cred := func(service string) gossip.Identity { return (&domain{nil, ca}).credential(t, service) }
	for name, start := range map[string]func(testing.TB, gossip.Config) discovery.Resolver{
		"observer": func(t testing.TB, cfg gossip.Config) discovery.Resolver { return startObserver(t, cfg) },
		"participant": func(t testing.TB, cfg gossip.Config) discovery.Resolver {
			p, err := gossip.Participate(t.Context(), gossip.Participation{Config: cfg, Observe: gossip.Observe,
				Enter: func(context.Context) ([][]byte, []string, error) { return nil, nil, errors.New("it observes") }})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			discoverytest.Run(t, func(t *testing.T) discoverytest.Harness {
				cfg := config()
				cfg.Identity = cred("ledger")
				seed := join(t, cfg).Addr().String()
				return discoverytest.Harness{Lacks: discoverytest.Lacks{Instance: true}, Join: func(t testing.TB) discoverytest.Member {
					s := &several{t: t, cred: cred, seed: func() []string { return []string{seed} }, members: make(map[string]*gossip.Member)}
					o := start(t, gossip.Config{Seeds: []string{seed}, Identity: cred("orders")})
					return discoverytest.Member{Resolver: o, Registrar: s, Leave: s.leave}
				}}
			})
		})
	}
}
