package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/internal/names"
	"github.com/intramesh/mesh/policy"
)

const (
	// handshakeTimeout bounds a handshake; maxHandshakes those that run at once on a listener. Above it
	// the oldest is dropped: silent connections can't keep honest ones out.
	handshakeTimeout = 10 * time.Second
	maxHandshakes    = 1024
	// maxUnaccepted bounds allowed connections that the application has not yet accepted.
	maxUnaccepted = 1024
	// maxTold bounds how many connections of a listener are being told why they are refused, maxToldEach those of one peer from one
	// address, and maxAsked the questions of members that are being answered. Above it they are closed without a word.
	maxTold     = 1024
	maxToldEach = 64
	maxAsked    = 256
	// announceTimeout bounds telling discovery about a listener.
	announceTimeout = 5 * time.Second
)

// ListenOptions adjusts one listener.
type ListenOptions struct {
	// Port names the port within the service: "admin" is dialed as "payments:admin". Empty means the default
	// port, dialed as "payments".
	Port string
	// ALPN lists the application protocols to accept, in order of preference, for an application that does not
	// speak them all; nil means "h2", "http/1.1" and the mesh's own raw protocol. A client that
	// offers none is served as well.
	ALPN []string
}

// Listen announces a named port of this service and returns a listener for it. At most one
// ListenOptions may be given.
//
// Accept returns connections whose peer is verified and allowed. It starts the handshakes: they run side by
// side, bounded in number and time, so that a slow peer never holds up the others. A raw connection from
// another node is a net.Conn with CloseWrite that behaves as TCP's does; for HTTP/2, HTTP/1.1 and clients without
// our code it is a bare *tls.Conn, as net/http and gRPC want it (of which golang/go#46977 is true: a Write
// that timed out has broken it). [PeerFromConn] tells who it is.
//
// Rules about HTTP or gRPC requests take effect when the port is served by [Mesh.Handler] or meshgrpc. Without
// these, a connection is decided once, as a whole, and such rules never open it.
//
// Network is "tcp", "tcp4" or "tcp6"; ctx bounds the call alone. Closing the listener withdraws the port.
func (m *Mesh) Listen(ctx context.Context, network, address string, opts ...ListenOptions) (net.Listener, error) {
	var o ListenOptions
	switch len(opts) {
	case 0:
	case 1:
		o = opts[0]
	default:
		return nil, errors.New("mesh: listen: more than one ListenOptions")
	}
	if o.Port != "" {
		if err := names.CheckPort(o.Port); err != nil {
			return nil, fmt.Errorf("mesh: listen: %w", err)
		}
	}
	if o.ALPN == nil {
		o.ALPN = []string{alpnHTTP2, alpnHTTP1, alpnMesh}
	}
	inner, err := m.cfg.Network.Listen(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("mesh: listen: %w", err)
	}
	l := &listener{
		mesh: m, inner: inner, port: o.Port, tls: m.serverTLS(append(slices.Clone(o.ALPN), alpnPeer)),
		ready: make(chan net.Conn), failed: make(chan struct{}), slots: make(chan struct{}, maxUnaccepted), lot: newLot(),
	}
	l.ctx, l.cancel = context.WithCancel(m.ctx)
	m.listenSameHost(ctx, l, network)
	if err := m.addListener(l); err != nil {
		l.cancel()
		return nil, errors.Join(err, l.closeSockets())
	}
	if err := m.announce(ctx, l); err != nil {
		return nil, errors.Join(fmt.Errorf("mesh: listen: announce %s: %w", joinTarget(m.service, l.port), err), l.Close())
	}
	return l, nil
}

// listener accepts verified and authorized connections for one named port.
type listener struct {
	mesh   *Mesh
	inner  net.Listener
	host   net.Listener   // for callers on this host; it may be nil
	at     netip.AddrPort // what they dial
	port   string
	tls    *tls.Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	start   sync.Once
	serving atomic.Bool // Accept was called
	once    sync.Once
	wg      sync.WaitGroup
	ready   chan net.Conn
	fail    sync.Once
	failed  chan struct{} // closed when no more can be accepted
	err     error         // why; set before failed is closed
	slots   chan struct{} // one for each allowed connection until Accept takes it: nobody else's can be short of them

	told, asked atomic.Int32 // under way

	mu      sync.Mutex
	pending []*netConn // in handshake, oldest first

	lot *lot
}

func (l *listener) Addr() net.Addr { return l.inner.Addr() }

// Accept returns the next connection. The first call starts accepting: until then the operating system queues
// what comes in.
func (l *listener) Accept() (net.Conn, error) {
	if l.ctx.Err() != nil {
		return nil, l.opError(ErrClosed)
	}
	l.start.Do(func() {
		l.serving.Store(true)
		l.mesh.checkRules()
		l.wg.Go(func() { l.acceptLoop(l.inner) })
		if l.host != nil {
			l.wg.Go(func() { l.acceptLoop(l.host) })
		}
	})
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.ctx.Done():
		return nil, l.opError(ErrClosed)
	case <-l.failed:
		return nil, l.err
	}
}

func (l *listener) opError(err error) error {
	return &net.OpError{Op: "accept", Net: l.Addr().Network(), Addr: l.Addr(), Err: err}
}

// Close stops accepting, withdraws the port and waits for handshakes to end. Accepted connections stay open.
func (l *listener) Close() error {
	err := l.opError(ErrClosed)
	l.once.Do(func() {
		l.cancel()
		l.start.Do(func() {}) // no loop may start any more
		err = l.closeSockets()
		l.mesh.withdraw(l)
		l.wg.Wait()
		l.mesh.endBrief(l)
		l.lot.close()
	})
	return err
}

func (l *listener) closeSockets() error {
	if l.host != nil {
		_ = l.host.Close() // its name is free before the address is
	}
	return l.inner.Close()
}

func (l *listener) acceptLoop(from net.Listener) {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	pause := minPause
	for {
		c, err := from.Accept()
		if err == nil {
			pause = minPause
			n := newNetConn(c)
			if from == l.host {
				n = l.mesh.sameHost.conn(c, l.at)
			}
			if n != nil {
				l.admit(n)
			}
			continue
		}
		if l.ctx.Err() != nil {
			return
		}
		// Out of file descriptors, or a peer that left while it was queued: it passes.
		if t, ok := errors.AsType[net.Error](err); !ok || !t.Temporary() { //nolint:staticcheck // net/http asks it too
			l.fail.Do(func() {
				l.err = err
				close(l.failed)
			})
			return
		}
		l.mesh.log.Warn("accept failed, trying again", "port", l.port, "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
			return
		}
		pause = min(2*pause, maxPause)
	}
}

func (l *listener) admit(n *netConn) {
	l.mu.Lock()
	var oldest *netConn
	if len(l.pending) >= maxHandshakes {
		oldest, l.pending = l.pending[0], l.pending[1:]
	}
	l.pending = append(l.pending, n)
	l.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close() // its handshake fails
	}
	l.wg.Go(func() { l.handshake(n) })
}

func (l *listener) handshake(n *netConn) {
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	defer cancel()
	before := l.mesh.credentials()
	t := tls.Server(n, l.tls)
	err := t.HandshakeContext(ctx)
	l.mu.Lock()
	if i := slices.Index(l.pending, n); i >= 0 {
		l.pending = slices.Delete(l.pending, i, i+1)
	}
	l.mu.Unlock()
	if err != nil {
		l.mesh.decisions.handshake(l.ctx, n.RemoteAddr().String(), l.port, err)
		l.mesh.trace.handshakeFailed(addrPort(n.RemoteAddr()), err)
		_ = n.Close() // it has failed
		return
	}
	l.admitted(n, t, before)
}

// admitted registers the connection, decides, and hands it to Accept, in this order: a change of the rules at any
// moment finds it.
func (l *listener) admitted(n *netConn, t *tls.Conn, before credentials) {
	cs := t.ConnectionState()
	n.peer, n.waiter = l.mesh.newPeer(n, cs), l.mesh.polling.Waiter()
	n.peer.Port = l.port
	sc := &serverConn{mesh: l.mesh, net: n, relay: cs.NegotiatedProtocol == alpnPeer}
	n.peer.conn = sc
	var c net.Conn = t
	if cs.NegotiatedProtocol == alpnMesh {
		sc.raw = l.mesh.newLink(t, n, l, before)
		c = sc.raw.begin(true)
	} else {
		sc.deferred = l.mesh.defers(l.port)
	}
	if !sc.register(connKey{source: n.peer.ID, addr: n.peer.Addr.Addr(), port: l.port, deferred: sc.deferred}) {
		_ = n.Close() // the mesh is closing
		return
	}
	if !sc.verify() {
		return // what changed since the handshake found no connection to look at
	}
	if !sc.relay {
		r := sc.request()
		l.offer(sc, t, c, r, l.decide(sc, r))
		return
	}
	defer l.asked.Add(-1)
	if l.asked.Add(1) > maxAsked {
		_ = n.Close() // too much is being asked
		return
	}
	l.mesh.servePeer(l.ctx, sc, t)
}

func (l *listener) decide(sc *serverConn, r *policy.Request) *DeniedError {
	dec := sc.rules.Authorize(l.ctx, r)
	return l.mesh.decided(l.ctx, r, &dec)
}

// offer hands a connection, or the next stream of one, to Accept, unless it was denied.
func (l *listener) offer(sc *serverConn, t *tls.Conn, c net.Conn, r *policy.Request, d *DeniedError) {
	if d != nil {
		same := l.mesh.conns.refuse(sc)
		l.mesh.decisions.denied(l.ctx, d, r, sc.net.peer)
		l.refuse(sc, t, d, same)
		return
	}
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	default:
		l.mesh.decisions.unaccepted(l.ctx, sc.net.peer)
		_ = sc.net.Close() // dropped
		return
	}
	select {
	case l.ready <- c:
	case <-l.ctx.Done():
		_ = c.Close() // nobody will accept it
	}
}

// refuse tells a peer no, if not too many are being told; same is how many of its connections are.
func (l *listener) refuse(sc *serverConn, t *tls.Conn, d *DeniedError, same int) {
	defer l.told.Add(-1)
	if l.told.Add(1) > maxTold || same > maxToldEach {
		_ = sc.net.Close()
		return
	}
	l.mesh.refuse(l.ctx, sc, t, d)
}
