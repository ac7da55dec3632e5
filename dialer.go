package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

const (
	// attemptTimeout bounds connecting to one endpoint, handshake included, so that a dead one does not use up the
	// caller's time while others are there.
	attemptTimeout = 5 * time.Second
	maxAttempts    = 4
)

// Dial connects to a service by its name, "payments", or to one of its named ports, "payments:admin". A name with
// slashes may also be written with dots, "invoices.billing"… see the package documentation for names. Its signature fits
// the DialContext and Dialer fields of clients for other protocols.
//
// It connects to the least loaded endpoint and tries another when that fails, or says nothing for a second. What answers has shown the
// certificate of that very service, or Dial fails. The connection has CloseWrite, and [PeerFromConn] tells
// who answered. If the service's rules refuse it, the first Read or Write returns a *DeniedError: TLS 1.3 lets a client
// finish before the server has decided. If it did so a moment ago, by rules that are still in force here and there, Dial returns that
// at once.
//
// A connection to another node that both sides have closed properly is kept for a minute, and the next Dial to that endpoint needs no
// handshake. Its server decides and counts it like a new one, and hears of it with the first Write or Read, or after a few milliseconds. Of
// the end of a connection that was dialed within a millisecond after another's, it may hear as much later: a program that exits without Close
// within that time breaks the connection off.
// A change of the rules, of a certificate or of the trusted authorities ends that, on either side.
//
// Network is "tcp", "tcp4" or "tcp6". Errors are *DialError; ErrNoEndpoints is inside when there is nobody to
// call. ctx bounds the call alone.
func (m *Mesh) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	t, err := parseTarget(address)
	if err != nil {
		return nil, fmt.Errorf("mesh: dial: %w", err)
	}
	if network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, &DialError{Service: t.service, Port: t.port, Err: net.UnknownNetworkError(network)}
	}
	if m.ctx.Err() != nil {
		return nil, &DialError{Service: t.service, Port: t.port, Err: ErrClosed}
	}
	return m.dial(ctx, t, nil)
}

// countUntilClose has a dialed connection count as its endpoint's load.
func countUntilClose(c net.Conn, p picked) {
	if c, ok := c.(*conn); ok {
		c.counted, *c.release = true, p
		return
	}
	n, _ := underTLS(c)
	release := p // here alone it outlives the call
	n.afterClose(func() { release.Done() })
}

// DialEndpoint connects to one known endpoint of a service ("payments" or "payments:admin"), for adapters that balance by
// themselves. The certificate that answers must be the service's. alpn lists the application protocols to offer; with
// any given, the connection is a bare *tls.Conn. None means a raw connection, as [Mesh.Dial] makes. Errors are *DialError.
func (m *Mesh) DialEndpoint(ctx context.Context, address string, addr netip.AddrPort, alpn ...string) (net.Conn, error) {
	t, err := parseTarget(address)
	if err != nil {
		return nil, fmt.Errorf("mesh: dial: %w", err)
	}
	c, err := m.dialEndpoint(ctx, t, addr, alpn)
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrClosed) && !speaksOther(err) {
		m.balance.endpoints(t).failed(addr)
	}
	return c, err
}

func (m *Mesh) dialEndpoint(ctx context.Context, t target, addr netip.AddrPort, alpn []string) (net.Conn, error) {
	if c := m.reuse(ctx, t, addr, alpn); c != nil {
		return c, nil
	}
	return m.connectTo(ctx, t, addr, alpn)
}

// reuse connects without a handshake, if it can.
func (m *Mesh) reuse(ctx context.Context, t target, addr netip.AddrPort, alpn []string) net.Conn {
	if len(alpn) > 0 {
		return nil
	}
	start := time.Now()
	c := m.warm.take(ctx, warmKey{t.service, addr})
	if c == nil {
		return nil
	}
	m.trace.dialDone(t, addr, start, nil)
	return c
}

// connectTo makes a connection to the endpoint at addr by one of its addresses. When one says nothing, or another process than the
// service's answers there, as in networks that use the same addresses, the next has its turn.
func (m *Mesh) connectTo(ctx context.Context, t target, addr netip.AddrPort, alpn []string) (net.Conn, error) {
	start := time.Now()
	inTime, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	set := m.balance.endpoints(t)
	paths := set.paths(addr)
	c, which, err := byPaths(inTime, paths, func(ctx context.Context, to netip.AddrPort, connected func()) (net.Conn, error) {
		if n := m.sameHost.dial(ctx, to); n != nil {
			c, err := m.handshake(ctx, t, addr, n, alpn)
			if err == nil || !anotherMay(err) {
				return c, err
			}
			m.sameHost.doubt(to)
		}
		inner, err := m.cfg.Network.DialContext(ctx, "tcp", to.String())
		if err != nil {
			return nil, m.closedOr(err)
		}
		connected()
		return m.handshake(ctx, t, addr, newNetConn(inner), alpn)
	})
	m.trace.dialDone(t, addr, start, err)
	switch {
	case err == nil && len(paths) > 1:
		set.prefer(addr, paths[which])
	case err != nil && len(paths) > 1 && anotherMay(err):
		set.prefer(addr, paths[1]) // there may have been no time for it
	}
	if err != nil {
		return nil, &DialError{Service: t.service, Port: t.port, Addr: addr.String(), Attempts: 1, Err: err}
	}
	return c, nil
}

// underKey is where a context has what goes between the network and a connection to be dialed: programs that dial without do without
// its code.
type underKey struct{}

func (m *Mesh) handshake(ctx context.Context, t target, addr netip.AddrPort, n *netConn, alpn []string) (net.Conn, error) {
	if under, ok := ctx.Value(underKey{}).(func(net.Conn) net.Conn); ok {
		n.Conn = under(n.Conn)
	}
	n.refused = func(d *DeniedError) { m.refusals.add(refuser{t, addr}, d) }
	if !m.dialed.add(n) {
		_ = n.Close() // the mesh is closing
		return nil, ErrClosed
	}
	before := m.credentials()
	if len(alpn) == 0 {
		alpn = []string{alpnMesh}
	}
	tc := tls.Client(n, m.clientTLS(t.service, alpn))
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = n.Close() // it has failed
		return nil, m.closedOr(err)
	}
	cs := tc.ConnectionState()
	n.peer, n.waiter = m.newPeer(n, cs), m.polling.Waiter()
	var c net.Conn = tc
	end := func(*DeniedError) { _ = n.Close() }
	if cs.NegotiatedProtocol == alpnMesh {
		l := m.newLink(tc, n, m.warm.set(warmKey{t.service, addr}, n), before)
		c, end = l.begin(true), func(d *DeniedError) {
			if l.fail(d) {
				m.farewells.add(m, l, d)
			}
		}
	}
	m.dialed.established(n, end)
	if err := m.revoked(n.peer); err != nil { // since the handshake
		_ = n.Close()
		return nil, err
	}
	return c, nil
}

func (m *Mesh) closedOr(err error) error {
	if m.ctx.Err() != nil {
		return ErrClosed
	}
	return err
}
