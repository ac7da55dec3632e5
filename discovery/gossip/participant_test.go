package gossip_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
)

// A participant is one in the fabric; it starts as a member.
type participant struct {
	*gossip.Participant
	entered, changed atomic.Int32
}

func (d *domain) participant(t *testing.T, ip, service string, beyond int, seeds ...string) *participant {
	t.Helper()
	h, p := d.host(ip), new(participant)
	cfg := leisurely
	cfg.Network, cfg.BindAddr, cfg.Seeds = h, netip.AddrPortFrom(h.Addr(), 0), seeds
	cfg.Keys, cfg.Identity = [][]byte{key(1)}, d.credential(t, service)
	var err error
	p.Participant, err = gossip.Participate(t.Context(), gossip.Participation{
		Config: cfg, Observe: gossip.Observe, ObserveBeyond: beyond,
		Enter: func(context.Context) ([][]byte, []string, error) {
			p.entered.Add(1)
			return [][]byte{key(1)}, nil, nil
		},
		Changed: func(bool) { p.changed.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// pool is of n members at a leisurely pace: most of an hour goes by in these tests.
func (d *domain) pool(t *testing.T, n int) (nodes []*node) {
	t.Helper()
	cfg := leisurely
	cfg.Identity = d.credential(t, "ledger")
	nodes = append(nodes, d.startWith(t, ipA, cfg))
	for i := range n - 1 {
		cfg.Seeds = []string{seedA}
		nodes = append(nodes, d.startWith(t, fmt.Sprintf("10.0.2.%d", i+1), cfg))
	}
	return nodes
}

var leisurely = gossip.Config{ProbeInterval: 5 * time.Second, GossipInterval: time.Second, RejoinInterval: time.Minute, SyncInterval: 5 * time.Minute}

func leave(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		if err := errors.Join(n.Leave(t.Context()), n.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// A member that announces nothing becomes an observer when the pool is large, stays one while it is not small, and is a member
// again when it is, or when it has something to announce. What it knows is known all the time.
func TestParticipantAdapts(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		nodes := d.pool(t, 6)
		server := d.participant(t, "10.0.1.1", "payments", 4, seedA)
		at := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("10.0.1.1:443")}
		if err := server.Register(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		p := d.participant(t, "10.0.3.1", "orders", 4, seedA)
		sees(t, p, time.Minute, "10.0.1.1")
		member := p.Instance()
		if p.Observes() || !p.Addr().IsValid() {
			t.Error("it began as an observer, with the pool's key")
		}
		// Every change on the way is one that a caller would see: none may lack the endpoint.
		keeps(t, p, 10*time.Minute, "10.0.1.1")
		if !p.Observes() || p.changed.Load() != 1 || p.Instance() == member || p.Addr().IsValid() {
			t.Fatalf("observes %v after %d changes, instance %s, addr %v", p.Observes(), p.changed.Load(), p.Instance(), p.Addr())
		}
		if server.Observes() {
			t.Error("the one that serves observes")
		}
		for _, m := range nodes[0].Members() {
			if m.Instance == member && m.Suspect.IsZero() {
				t.Error("it is still a member")
			}
		}
		if n := p.PoolSize(); n != 7 {
			t.Errorf("it says that the pool has %d members", n)
		}
		// Smaller than it must be to observe, and larger than it must be to return.
		leave(t, nodes[3:]...)
		keeps(t, p, 20*time.Minute, "10.0.1.1")
		if !p.Observes() || p.changed.Load() != 1 {
			t.Error("it does not stay what it is")
		}
		leave(t, nodes[:3]...) // the server remains
		keeps(t, p, 10*time.Minute, "10.0.1.1")
		if p.Observes() || p.entered.Load() != 1 {
			t.Errorf("the pool is small: observes %v after asking for keys %d times", p.Observes(), p.entered.Load())
		}
		if got := p.Refused(); got != (gossip.Refused{}) {
			t.Errorf("refused %+v", got)
		}
	})
}

// An observer that announces something is a member from then on, under a name that no other part had, and one again when it is done.
func TestParticipantRegisters(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		nodes := d.pool(t, 6)
		b := d.member(t, "payments", ipB, seedA)
		b.serve(t, "payments")
		p := d.participant(t, "10.0.3.1", "payments", 4, seedA)
		sees(t, p, time.Minute, ipB)
		keeps(t, p, 10*time.Minute, ipB)
		if !p.Observes() {
			t.Fatal("it is a member")
		}
		p.SetBundle(7)
		waits := p.Lookup("nobody").Changed
		at := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("10.0.3.1:443")}
		start := time.Now()
		if err := p.Register(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		t.Logf("registering took %v", time.Since(start))
		if got := seen(p); p.Observes() || !slices.Equal(got, []string{ipB, "10.0.3.1"}) {
			t.Errorf("observes %v, and sees %v", p.Observes(), got)
		}
		select {
		case <-waits:
		default:
			t.Error("who waited for a service was not woken")
		}
		nodes[3].within(t, 30*time.Second, "payments", ipB, "10.0.3.1")
		if i := slices.IndexFunc(nodes[3].Members(), func(m gossip.MemberInfo) bool { return m.Instance == p.Instance() }); i < 0 {
			t.Error("it is no member")
		}
		<-time.After(20 * time.Minute)
		if p.Observes() {
			t.Error("it observes though it serves")
		}
		if err := p.Deregister(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Minute)
		if !p.Observes() || !slices.Equal(seen(p), []string{ipB}) {
			t.Errorf("observes %v, and sees %v, when it serves no more", p.Observes(), seen(p))
		}
		if err := p.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Register(t.Context(), at); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after leaving: %v", err)
		}
	})
}

// An observer whom nobody has room for becomes a member.
func TestParticipantTurnedAway(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		d.member(t, "ledger", ipA)
		b := d.member(t, "payments", ipB, seedA)
		b.serve(t, "payments")
		const perHost = 64
		for range perHost { // of this host
			d.observer(t, seedA)
			d.observer(t, ipB+":7946")
		}
		<-time.After(time.Second)
		h := d.host("10.9.9.9")
		p, err := gossip.Participate(t.Context(), gossip.Participation{
			Config:  gossip.Config{Network: h, BindAddr: netip.AddrPortFrom(h.Addr(), 0), Seeds: []string{seedA}, Identity: d.credential(t, "orders")},
			Observe: gossip.Observe,
			Enter: func(context.Context) ([][]byte, []string, error) {
				return [][]byte{key(1)}, []string{seedA}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		<-time.After(45 * time.Second)
		if p.Observes() {
			t.Fatalf("it observes")
		}
		sees(t, p, time.Second, ipB)
	})
}

// What can't be is an error, and a failed change is none.
func TestParticipantEnterFails(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		d.member(t, "ledger", ipA)
		no := errors.New("no keys today")
		cfg := gossip.Participation{
			Config: gossip.Config{Network: d.host("10.9.9.9"), Seeds: []string{seedA}, Identity: d.credential(t, "orders")},
		}
		cfg.Enter = func(context.Context) ([][]byte, []string, error) { return nil, nil, no }
		if p, err := gossip.Participate(t.Context(), cfg); err == nil {
			_ = p.Close()
			t.Error("it has no keys, and may not observe")
		}
		cfg.Observe, cfg.Enter = gossip.Observe, nil
		if p, err := gossip.Participate(t.Context(), cfg); err == nil {
			_ = p.Close()
			t.Error("there is no way to become a member")
		}
		cfg.Enter = func(context.Context) ([][]byte, []string, error) { return nil, nil, no }
		p, err := gossip.Participate(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		at := discovery.Endpoint{Service: "orders", Addr: netip.MustParseAddrPort("10.9.9.9:443")}
		if err := p.Register(t.Context(), at); !errors.Is(err, no) {
			t.Errorf("registered: %v", err)
		}
		if err := p.Deregister(t.Context(), at); err != nil || !p.Observes() {
			t.Errorf("it observes: %v, %v", p.Observes(), err)
		}
		if err := p.SetKeys(nil); err != nil {
			t.Error(err)
		}
	})
}
