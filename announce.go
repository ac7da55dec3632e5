package mesh

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/intramesh/mesh/discovery"
)

func (m *Mesh) addListener(l *listener) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch _, taken := m.listeners[l.port]; {
	case m.closed || m.ctx.Err() != nil:
		return ErrClosed
	case taken:
		return fmt.Errorf("mesh: listen: %s is being served already: name another port with ListenOptions.Port", joinTarget(m.service, l.port))
	}
	m.listeners[l.port] = l
	return nil
}

func (m *Mesh) allListeners() []*listener {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*listener, 0, len(m.listeners))
	for _, l := range m.listeners {
		all = append(all, l)
	}
	return all
}

// announce tells discovery about a listener.
func (m *Mesh) announce(ctx context.Context, l *listener) error {
	r, ok := m.discovery.(discovery.Registrar)
	if !ok {
		return nil
	}
	ep, err := m.endpointOf(l)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	return m.announceState(ctx, r, ep)
}

// withdraw takes a listener back.
func (m *Mesh) withdraw(l *listener) {
	m.mu.Lock()
	mine := m.listeners[l.port] == l
	if mine {
		delete(m.listeners, l.port)
	}
	m.mu.Unlock()
	r, ok := m.discovery.(discovery.Registrar)
	if !ok || !mine {
		return
	}
	// Not the mesh's context: withdrawing is a part of closing.
	ctx, cancel := context.WithTimeout(context.Background(), announceTimeout)
	defer cancel()
	if err := r.Deregister(ctx, discovery.Endpoint{Service: m.service, Port: l.port}); err != nil {
		m.log.Warn("could not withdraw an endpoint", "port", l.port, "error", err)
	}
}

func (m *Mesh) endpointOf(l *listener) (discovery.Endpoint, error) {
	a := addrPort(l.Addr())
	if !a.IsValid() {
		return discovery.Endpoint{}, fmt.Errorf("the listener's address %s is not one of TCP", l.Addr())
	}
	ip := m.advertise
	if !ip.IsValid() && !a.Addr().IsUnspecified() {
		ip = a.Addr()
	}
	if !ip.IsValid() {
		ip = m.facing
	}
	if !ip.IsValid() {
		if ip = localAddr(); !ip.IsValid() {
			return discovery.Endpoint{}, fmt.Errorf("no address to announce for a listener on %s: set Config.Advertise", l.Addr())
		}
	}
	return discovery.Endpoint{Service: m.service, Port: l.port, Addr: netip.AddrPortFrom(ip, a.Port()), Zone: m.cfg.Zone, Also: m.also}, nil
}

// parseAlso reads addresses beside the first one.
func parseAlso(texts []string) (discovery.AddrList, error) {
	if len(texts) > discovery.MaxAlso {
		return discovery.AddrList{}, fmt.Errorf("%d addresses, of at most %d", len(texts), discovery.MaxAlso)
	}
	var addrs []netip.Addr
	for _, s := range texts {
		a, err := netip.ParseAddr(s)
		if err == nil && a.IsUnspecified() {
			err = fmt.Errorf("others can't connect to %v", a)
		}
		if err != nil {
			return discovery.AddrList{}, err
		}
		addrs = append(addrs, a)
	}
	return discovery.AddrsOf(addrs...), nil
}

// localAddr is the first global unicast address of an interface, IPv4 before IPv6, else the loopback address.
func localAddr() netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}
	}
	var v6, loop netip.Addr
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		switch ip = ip.Unmap(); {
		case !ok:
		case ip.IsLoopback() && !loop.IsValid():
			loop = ip
		case !ip.IsGlobalUnicast():
		case ip.Is4():
			return ip
		case !v6.IsValid():
			v6 = ip
		}
	}
	if v6.IsValid() {
		return v6
	}
	return loop
}

// facingAddr is the local address from which a host:port would be reached. It sends nothing.
func facingAddr(ctx context.Context, hostport string) netip.Addr {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", hostport)
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	u, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	return u.AddrPort().Addr().Unmap().WithZone("")
}
