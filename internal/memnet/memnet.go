// Package memnet is a TCP network in memory: hosts with addresses, listeners, and buffered
// full-duplex connections that behave as those of package net do. It uses no operating system
// sockets and blocks only where testing/synctest sees it, so that a bubble's clock moves on.
//
// It stands in for net.Pipe, on which a TLS 1.3 server that sends session tickets deadlocks
// because nothing is buffered.
package memnet

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
)

// A Network connects the hosts that were made by its Host method. It is safe for concurrent
// use.
type Network struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*listener
	port      uint16
}

// New returns a network without hosts.
func New() *Network {
	return &Network{listeners: make(map[netip.AddrPort]*listener)}
}

// firstPort is where ephemeral ports start, as in RFC 6335.
const firstPort = 49152

// ephemeral returns an address of a that no listener uses. n.mu is held.
func (n *Network) ephemeral(a netip.Addr) netip.AddrPort {
	for {
		n.port++
		if n.port < firstPort {
			n.port = firstPort
		}
		ap := netip.AddrPortFrom(a, n.port)
		if n.listeners[ap] == nil {
			return ap
		}
	}
}

// A Host is one process with one address. Several hosts may share an address, as processes of
// one machine do. It is safe for concurrent use.
type Host struct {
	net  *Network
	addr netip.Addr

	mu     sync.Mutex
	dead   bool
	thawed chan struct{} // non-nil while the host is frozen
	conns  map[*conn]struct{}
}

// Host returns a new process at addr.
func (n *Network) Host(addr netip.Addr) *Host {
	return &Host{net: n, addr: addr.Unmap(), conns: make(map[*conn]struct{})}
}

// Addr returns the host's address.
func (h *Host) Addr() netip.Addr { return h.addr }

// Kill does what SIGKILL does: every connection of the host is reset, its listeners are gone,
// and it can neither dial nor listen any more. A new host may take its address.
func (h *Host) Kill() {
	h.mu.Lock()
	h.dead = true
	conns := h.conns
	h.conns = nil
	h.mu.Unlock()

	for _, l := range h.net.listenersOf(h) {
		_ = l.Close()
	}
	for c := range conns {
		c.reset()
	}
}

// Freeze takes the host off the network without a word: nothing that it sends, or that is sent
// to it, arrives, and dials from and to it block. The returned function puts it back.
func (h *Host) Freeze() (thaw func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	thawed := make(chan struct{})
	h.thawed = thawed
	conns := slices.Collect(maps.Keys(h.conns)) // which may be closed before the thaw
	for _, c := range conns {
		c.freeze(true)
	}
	return sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.thawed = nil
		for _, c := range conns {
			c.freeze(false)
		}
		close(thawed)
	})
}

// waitThawed returns once the host is not frozen.
func (h *Host) waitThawed(ctx context.Context) error {
	for {
		h.mu.Lock()
		thawed := h.thawed
		h.mu.Unlock()
		if thawed == nil {
			return nil
		}
		select {
		case <-thawed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *Network) listenersOf(h *Host) []*listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ls []*listener
	for _, l := range n.listeners {
		if l.host == h {
			ls = append(ls, l)
		}
	}
	return ls
}

func (h *Host) alive() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return syscall.ENETDOWN
	}
	return nil
}

func (h *Host) add(c *conn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return syscall.ENETDOWN
	}
	h.conns[c] = struct{}{}
	return nil
}

func (h *Host) remove(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
}

// DialContext connects to the "address:port" of a listener. It returns at once when there is
// none, with an error that is [syscall.ECONNREFUSED], and blocks until ctx is done while the
// listener's queue of unaccepted connections is full.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	fail := func(to net.Addr, err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: to, Err: err}
	}
	to, err := h.resolve(network, address)
	if err != nil {
		return fail(nil, err)
	}
	remote := net.TCPAddrFromAddrPort(to)
	if err := ctx.Err(); err != nil {
		return fail(remote, err)
	}
	h.net.mu.Lock()
	l := h.net.listeners[to]
	from := h.net.ephemeral(h.addr)
	h.net.mu.Unlock()
	if err := h.waitThawed(ctx); err != nil {
		return fail(remote, err)
	}
	if l == nil {
		return fail(remote, refused())
	}
	if err := l.host.waitThawed(ctx); err != nil {
		return fail(remote, err)
	}
	client, server := pair(h, l.host, from, to)
	if err := h.add(client); err != nil {
		return fail(remote, err)
	}
	if err := l.host.add(server); err != nil {
		client.reset()
		return fail(remote, refused())
	}
	if err := l.push(ctx, server); err != nil {
		client.reset()
		return fail(remote, err)
	}
	return client, nil
}

// Listen opens a listener on a port of the host, or on a free one when the port is 0. The
// unspecified address, loopback and no address at all all mean the host's own, which is what the
// listener's Addr tells. ctx is not used.
func (h *Host) Listen(_ context.Context, network, address string) (net.Listener, error) {
	fail := func(at net.Addr, err error) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: at, Err: err}
	}
	at, err := h.resolve(network, address)
	if err != nil {
		return fail(nil, err)
	}
	if at.Addr() != h.addr {
		return fail(net.TCPAddrFromAddrPort(at), os.NewSyscallError("bind", syscall.EADDRNOTAVAIL))
	}
	if err := h.alive(); err != nil {
		return fail(net.TCPAddrFromAddrPort(at), err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if at.Port() == 0 {
		at = h.net.ephemeral(h.addr)
	}
	if h.net.listeners[at] != nil {
		return fail(net.TCPAddrFromAddrPort(at), os.NewSyscallError("bind", syscall.EADDRINUSE))
	}
	l := newListener(h, at)
	h.net.listeners[at] = l
	return l, nil
}

// resolve reads an address as host h sees it.
func (h *Host) resolve(network, address string) (netip.AddrPort, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return netip.AddrPort{}, &net.AddrError{Err: "invalid port", Addr: address}
	}
	addr := h.addr
	if host != "" && host != "localhost" {
		addr, err = netip.ParseAddr(host)
		if err != nil {
			return netip.AddrPort{}, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		addr = addr.Unmap().WithZone("")
		if addr.IsUnspecified() || addr.IsLoopback() {
			addr = h.addr
		}
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

func refused() error { return os.NewSyscallError("connect", syscall.ECONNREFUSED) }
