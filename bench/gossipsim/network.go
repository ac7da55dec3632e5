package main

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/internal/memnet"
)

// A network carries the pool's datagrams and streams in memory, late, with losses, and cut in two when told so.
type network struct {
	mem      *memnet.Network
	latency  time.Duration // one way; each packet takes between it and twice it
	lossPPM  atomic.Int64  // datagrams lost, in parts of a million
	cut      atomic.Pointer[func(a, b netip.Addr) bool]
	mu       sync.RWMutex
	sockets  map[netip.AddrPort]*socket
	packets  atomic.Int64 // sent, lost ones included
	bytes    atomic.Int64 // of datagrams and streams, sent, without headers of UDP, TCP and IP
	streams  atomic.Int64 // dialed
	overflow atomic.Int64 // datagrams that found the receiver's buffer full
	tap      func([]byte) // sees all datagrams, unless nil
}

func newNetwork(latency time.Duration) *network {
	return &network{mem: memnet.New(), latency: latency, sockets: make(map[netip.AddrPort]*socket)}
}

func (n *network) setLoss(share float64) { n.lossPPM.Store(int64(share * 1e6)) }

// split cuts every way between two addresses for which side differs; nil heals.
func (n *network) split(side func(netip.Addr) bool) {
	if side == nil {
		n.cut.Store(nil)
		return
	}
	f := func(a, b netip.Addr) bool { return side(a) != side(b) }
	n.cut.Store(&f)
}

func (n *network) isCut(a, b netip.Addr) bool {
	f := n.cut.Load()
	return f != nil && (*f)(a, b)
}

func (n *network) lose() bool {
	loss := n.lossPPM.Load()
	return loss > 0 && rand.Int64N(1e6) < loss //nolint:gosec // a simulated loss
}

func (n *network) delay() time.Duration {
	return n.latency + time.Duration(rand.Int64N(int64(n.latency)+1)) //nolint:gosec // a simulated latency
}

// A host is the [gossip.Network] of one member.
type host struct {
	*memnet.Host
	net      *network
	streamed atomic.Int64 // bytes sent on streams
	received atomic.Int64 // and received
}

func (n *network) host(ip netip.Addr) *host { return &host{Host: n.mem.Host(ip), net: n} }

// kill does what SIGKILL does.
func (h *host) kill() {
	h.Kill()
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for addr, s := range h.net.sockets {
		if s.host == h {
			delete(h.net.sockets, addr)
		}
	}
}

// DialContext takes a round trip, and a second, two, four … more for each SYN that is lost (RFC 6298).
func (h *host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	wait := h.net.delay() + h.net.delay()
	for backoff := time.Second; h.net.lose(); backoff *= 2 {
		wait += backoff
	}
	if h.net.isCut(h.Addr(), to.Addr()) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	h.net.streams.Add(1)
	conn, err := h.Host.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &countedConn{conn, h}, nil
}

// Listen counts what is sent on the connections that it accepts.
func (h *host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	ln, err := h.Host.Listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &countedListener{ln, h}, nil
}

type countedListener struct {
	net.Listener
	host *host
}

func (l *countedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{conn, l.host}, nil
}

type countedConn struct {
	net.Conn
	host *host
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.host.received.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.host.net.bytes.Add(int64(n))
	c.host.streamed.Add(int64(n))
	return n, err
}

// ListenPacket opens the socket of a member.
func (h *host) ListenPacket(_ context.Context, _, address string) (net.PacketConn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	s := &socket{host: h, addr: addr, ready: make(chan struct{}, 1), closed: make(chan struct{})}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.net.sockets[addr] = s
	return s, nil
}

type datagram struct {
	b    []byte
	from netip.AddrPort
}

// maxQueued is what a socket buffers, in bytes; Linux' default is 212,992 with overhead counted.
const maxQueued = 128 << 10

// A socket is a net.PacketConn that loses what it has no room for, as UDP does.
type socket struct {
	net.PacketConn // for what is not used
	host           *host
	addr           netip.AddrPort
	ready          chan struct{}
	closed         chan struct{}
	once           sync.Once

	mu     sync.Mutex
	queue  []datagram
	queued int
}

func (s *socket) deliver(d datagram) {
	s.mu.Lock()
	full := s.queued+len(d.b) > maxQueued
	if !full {
		s.queue = append(s.queue, d)
		s.queued += len(d.b)
	}
	s.mu.Unlock()
	if full {
		s.host.net.overflow.Add(1)
		return
	}
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

func (s *socket) take() (datagram, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return datagram{}, false
	}
	d := s.queue[0]
	s.queue[0] = datagram{}
	if s.queue = s.queue[1:]; len(s.queue) == 0 {
		s.queue = nil
	}
	s.queued -= len(d.b)
	return d, true
}

func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		if d, ok := s.take(); ok {
			return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
		}
		select {
		case <-s.ready:
		case <-s.closed:
			return 0, nil, net.ErrClosed
		}
	}
}

func (s *socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	to := addr.(*net.UDPAddr).AddrPort()
	n := s.host.net
	n.packets.Add(1)
	n.bytes.Add(int64(len(b)))
	if n.tap != nil {
		n.tap(b)
	}
	n.mu.RLock()
	peer, alive := n.sockets[to], n.sockets[s.addr] == s
	n.mu.RUnlock()
	if peer != nil && alive && !n.lose() && !n.isCut(s.addr.Addr(), to.Addr()) {
		d := datagram{slices.Clone(b), s.addr}
		time.AfterFunc(n.delay(), func() { peer.deliver(d) })
	}
	return len(b), nil
}

func (s *socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}
