package gossip_test

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/internal/memnet"
)

// A fabric is a network in memory whose cables can be cut, for tests under synctest.
type fabric struct {
	mem *memnet.Network

	mu      sync.Mutex
	sockets map[netip.AddrPort]*socket
	cut     func(from, to netip.Addr) bool
	deaf    netip.Addr // it gets no packets, but streams
	paused  *pause
	hostile bool // somebody here sends what is refused
}

func newFabric() *fabric {
	return &fabric{mem: memnet.New(), sockets: make(map[netip.AddrPort]*socket)}
}

// setCut makes what cut reports disappear on the way; nil heals all.
func (f *fabric) setCut(cut func(from, to netip.Addr) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = cut
}

func (f *fabric) isCut(from, to netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cut != nil && f.cut(from, to)
}

// A pause is what a process that stands still misses.
type pause struct {
	host *host
	held []held // what the system keeps for it
}

type held struct {
	to *socket
	datagram
}

// maxHeld is how much of it that is.
const maxHeld = 1000

// pause has a process stand still until what it returns is called. One can be at a time.
func (f *fabric) pause(h *host) (thaw func()) {
	stopped := &pause{host: h}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused = stopped
	goOn := h.Freeze()
	return func() {
		goOn()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.paused = nil
		for _, d := range stopped.held {
			d.to.receive(d.datagram)
		}
	}
}

// hold keeps what is for a process that stands still, and drops what it would have sent.
func (f *fabric) hold(from *host, to *socket, d datagram) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.paused
	if p == nil || from != p.host && to.host != p.host {
		return false
	}
	if to.host == p.host && len(p.held) < maxHeld {
		p.held = append(p.held, held{to, d})
	}
	return true
}

// A host is the gossip.Network of one process.
type host struct {
	*memnet.Host
	f *fabric
}

func (f *fabric) host(ip string) *host {
	return &host{f.mem.Host(netip.MustParseAddr(ip)), f}
}

// kill is SIGKILL.
func (h *host) kill() {
	h.Kill()
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	for addr, s := range h.f.sockets {
		if s.host == h {
			delete(h.f.sockets, addr)
		}
	}
}

func (h *host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if h.f.isCut(h.Addr(), to.Addr()) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return h.Host.DialContext(ctx, network, address)
}

func (h *host) ListenPacket(_ context.Context, _, address string) (net.PacketConn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	s := &socket{host: h, addr: addr, in: make(chan datagram, 1024), closed: make(chan struct{})}
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	h.f.sockets[addr] = s
	return s, nil
}

type datagram struct {
	b    []byte
	from netip.AddrPort
}

// A socket is a net.PacketConn. It loses what does not fit its buffer, as UDP does.
type socket struct {
	net.PacketConn // for what is not used
	host           *host
	addr           netip.AddrPort
	in             chan datagram
	once           sync.Once
	closed         chan struct{}
}

func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-s.in:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	case <-s.closed:
		return 0, nil, net.ErrClosed
	}
}

func (s *socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	to := addr.(*net.UDPAddr).AddrPort()
	s.host.f.mu.Lock()
	peer, alive := s.host.f.sockets[to], s.host.f.sockets[s.addr] == s && s.host.f.deaf != to.Addr()
	s.host.f.mu.Unlock()
	if peer != nil && alive && !s.host.f.isCut(s.addr.Addr(), to.Addr()) {
		if d := (datagram{slices.Clone(b), s.addr}); !s.host.f.hold(s.host, peer, d) {
			peer.receive(d)
		}
	}
	return len(b), nil
}

func (s *socket) receive(d datagram) {
	select {
	case s.in <- d:
	default:
	}
}

func (s *socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// A node is a member in the fabric.
type node struct {
	*gossip.Member
	host *host
}

// start joins a member that has ip and port 7946 and the times that users get.
func (f *fabric) start(t *testing.T, ip string, seeds ...string) *node {
	return f.startWith(t, ip, gossip.Config{Seeds: seeds})
}

func (f *fabric) startWith(t *testing.T, ip string, cfg gossip.Config) *node {
	t.Helper()
	h := f.host(ip)
	cfg.Network = h
	if !cfg.BindAddr.IsValid() {
		cfg.BindAddr = netip.AddrPortFrom(h.Addr(), 7946)
	}
	if cfg.Keys == nil {
		cfg.Keys = [][]byte{key(1)}
	}
	n := &node{join(t, cfg), h}
	t.Cleanup(func() {
		if r := n.Refused(); !f.hostile && r.Sealed+r.Messages+r.Lies+r.Forged > 0 {
			t.Errorf("%v accuses honest members: %+v", h.Addr(), r)
		}
	})
	return n
}

// serve announces service at the node's address.
func (n *node) serve(t *testing.T, service string) {
	t.Helper()
	err := n.Register(t.Context(), discovery.Endpoint{Service: service, Addr: netip.AddrPortFrom(n.host.Addr(), 443)})
	if err != nil {
		t.Fatal(err)
	}
}

// sees returns the addresses of the endpoints that n knows, those of suspects with a "?".
func (n *node) sees(service string) []string {
	var all []string
	for _, ep := range n.Lookup(service).Endpoints {
		s := ep.Addr.Addr().String()
		if ep.Suspect {
			s += "?"
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

// within waits until n sees want, and fails if that takes longer than d of the bubble's time.
func (n *node) within(t *testing.T, d time.Duration, service string, want ...string) time.Duration {
	t.Helper()
	start, timeout := time.Now(), time.After(d)
	for {
		changed := n.Lookup(service).Changed
		if slices.Equal(n.sees(service), want) {
			return time.Since(start)
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("%v: after %v it sees %s at %v, want %v", n.host.Addr(), d, service, n.sees(service), want)
		}
	}
}

// stays fails if n sees payments anywhere but at want within d.
func (n *node) stays(t *testing.T, d time.Duration, want ...string) {
	t.Helper()
	timeout := time.After(d)
	for {
		changed := n.Lookup("payments").Changed
		if got := n.sees("payments"); !slices.Equal(got, want) {
			t.Fatalf("%v: it sees %v, want %v", n.host.Addr(), got, want)
		}
		select {
		case <-changed:
		case <-timeout:
			return
		}
	}
}

// inFabric runs a test on a virtual clock.
func inFabric(t *testing.T, test func(t *testing.T, f *fabric)) {
	synctest.Test(t, func(t *testing.T) { test(t, newFabric()) })
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

// suspects marks the addresses that begin with prefix, in the order of sees.
func suspects(all []string, prefix string) []string {
	var marked []string
	for _, ip := range all {
		if strings.HasPrefix(ip, prefix) {
			ip += "?"
		}
		marked = append(marked, ip)
	}
	return sorted(marked)
}
