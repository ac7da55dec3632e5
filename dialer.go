package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/intramesh/mesh/policy"
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
// It connects to the least loaded endpoint and tries another when that fails. What answers has shown the
// certificate of that very service, or Dial fails. The connection has CloseWrite, and [PeerFromConn] tells
// who answered. If the service's rules refuse it, the first Read or Write returns a *DeniedError: TLS 1.3 lets a client
// finish before the server has decided. If it did so a moment ago, by rules that are still in force here and there, Dial returns that
// at once.
//
// A connection to another node that both sides have closed properly is kept for a minute, and the next Dial to that endpoint needs no
// handshake. Its server decides and counts it like a new one, and hears of it with the first Write or Read, or after a few milliseconds.
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

// dial connects to the least loaded endpoint that can be reached; no alpn means a raw connection. Until it is closed the connection counts as its load.
func (m *Mesh) dial(ctx context.Context, t target, alpn []string) (net.Conn, error) {
	set := m.balance.endpoints(t)
	var tried []endpoint
	var last error
	for len(tried) < maxAttempts {
		p, err := set.pick(tried...)
		if err != nil {
			if last == nil {
				last = &DialError{Service: t.service, Port: t.port, Err: err}
			}
			break
		}
		if len(alpn) == 0 {
			if d := m.early(ctx, t, p.Key.addr, func(*policy.Request) {}); d != nil {
				p.Done()
				return nil, &DialError{Service: t.service, Port: t.port, Addr: p.Key.addr.String(), Attempts: len(tried), Err: d}
			}
		}
		start := time.Now()
		c, err := m.dialEndpoint(ctx, t, p.Key.addr, alpn)
		if err == nil {
			p.Reached(0)
			countUntilClose(c, p)
			return c, nil
		}
		switch {
		case m.ctx.Err() != nil:
		case ctx.Err() == nil:
			p.Failed()
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			p.Rejected(time.Since(start)) // the caller was in a hurry, or the endpoint hangs
		}
		p.Done()
		tried, last = append(tried, p.Key), err
		if ctx.Err() != nil || m.ctx.Err() != nil {
			break
		}
	}
	if de, ok := errors.AsType[*DialError](last); ok {
		de.Attempts = len(tried)
	}
	return nil, last
}

// countUntilClose has a dialed connection count as its endpoint's load.
func countUntilClose(c net.Conn, p picked) {
	if c, ok := c.(*conn); ok {
		c.counted, c.release = true, p
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
	start := time.Now()
	if len(alpn) == 0 {
		if c := m.warm.take(ctx, warmKey{t.service, addr}); c != nil {
			m.trace.dialDone(t, addr, start, nil)
			return c, nil
		}
	}
	c, err := m.handshakeWith(ctx, t, addr, alpn)
	m.trace.dialDone(t, addr, start, err)
	if err != nil {
		return nil, &DialError{Service: t.service, Port: t.port, Addr: addr.String(), Attempts: 1, Err: err}
	}
	return c, nil
}

// handshakeWith connects to the endpoint at addr by one of its addresses. When another process than the service's answers at one of
// them, as in networks that use the same addresses, the next has its turn.
func (m *Mesh) handshakeWith(ctx context.Context, t target, addr netip.AddrPort, alpn []string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	defer context.AfterFunc(m.ctx, cancel)()
	set := m.balance.endpoints(t)
	paths := set.paths(addr)
	several := len(paths) > 1
	for {
		inner, i, err := connect(ctx, m.cfg.Network, paths)
		if err != nil {
			return nil, m.closedOr(err)
		}
		c, err := m.handshake(ctx, t, addr, inner, alpn)
		_, denied := errors.AsType[*DeniedError](err)
		if err != nil && len(paths) > 1 && !denied && !speaksOther(err) && !errors.Is(err, ErrClosed) {
			toFront(paths, i)
			paths = paths[1:]
			set.prefer(addr, paths[0]) // also if there is no time left now
			if ctx.Err() == nil {
				continue
			}
		}
		if err == nil && several {
			set.prefer(addr, paths[i])
		}
		return c, err
	}
}

func (m *Mesh) handshake(ctx context.Context, t target, addr netip.AddrPort, inner net.Conn, alpn []string) (net.Conn, error) {
	n := newNetConn(inner)
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
	n.peer = m.newPeer(n, cs)
	var c net.Conn = tc
	end := func(*DeniedError) { _ = n.Close() }
	if cs.NegotiatedProtocol == alpnMesh {
		l := m.newLink(tc, n, m.warm.set(warmKey{t.service, addr}, n), before)
		c, end = l.begin(true), func(d *DeniedError) { m.farewells.add(m, l, d) }
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
