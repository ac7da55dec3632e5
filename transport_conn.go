package mesh

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// poolConn is one connection. What changes is guarded by the pool's mutex, if nothing else is said.
type poolConn struct {
	// full carries all requests over HTTP/2; over HTTP/1.1 it is made for the first one that direct can't carry, by who has the connection,
	// and direct is not used again.
	full   atomic.Pointer[http.ClientConn]
	direct *direct

	net       net.Conn
	pool      *pool
	http1     bool
	solo      bool // for one request alone
	lane      bool
	users     int
	served    int // requests, those under way included
	watched   int // what served was when lanes were last looked after
	idleSince time.Time
}

func (p *pool) connect(ctx context.Context, alpn ...string) (*poolConn, error) {
	nc, err := p.transport.dial(context.WithValue(ctx, underKey{}, outboxed), p.target, p.endpoint.addr, alpn)
	if err != nil {
		return nil, err
	}
	c := &poolConn{net: nc, pool: p, http1: spoken(nc) != alpnHTTP2, idleSince: time.Now()}
	if c.http1 {
		c.direct = newDirect(nc, &p.transport.wires)
	} else {
		gather(nc)
	}
	if c.direct == nil {
		if err := c.fill(); err != nil {
			_ = nc.Close()
			return nil, p.dialError(err)
		}
	}
	return c, nil
}

// fill makes c.full.
func (c *poolConn) fill() error {
	// The address is not used: base's dialer returns what is in the context.
	t := c.pool.transport
	cc, err := t.base.NewClientConn(context.WithValue(t.ctx, dialedKey{}, c.net), "https", "mesh:443")
	if err == nil {
		c.full.Store(cc)
	}
	return err
}

type dialedKey struct{}

// dialed is the DialTLSContext of the transport that makes http.ClientConns.
func dialed(ctx context.Context, _, _ string) (net.Conn, error) {
	c, ok := ctx.Value(dialedKey{}).(net.Conn)
	if !ok {
		return nil, net.ErrClosed // nobody else dials by it
	}
	return c, nil
}

// spoken is the protocol that both ends agreed upon.
func spoken(c net.Conn) string {
	if t, ok := c.(*tls.Conn); ok {
		return t.ConnectionState().NegotiatedProtocol
	}
	return ""
}

// RoundTrip is http.RoundTripper's. Plain says that the request has no body, and means the same over HTTP/1.1.
func (c *poolConn) RoundTrip(req *http.Request, plain bool) (*http.Response, error) {
	full := c.full.Load()
	if full == nil {
		if plain && sendable(req) {
			return c.direct.roundTrip(req)
		}
		if err := c.fill(); err != nil {
			c.direct.fail(err)
			return nil, err
		}
		full = c.full.Load()
	}
	return full.RoundTrip(req)
}

// Reserve takes a place for a request. The caller owes a RoundTrip or Release.
func (c *poolConn) Reserve() error {
	if full := c.full.Load(); full != nil {
		return full.Reserve()
	}
	return c.direct.Err()
}

// Release gives back what was reserved.
func (c *poolConn) Release() {
	if full := c.full.Load(); full != nil {
		full.Release()
	}
}

// Available is how many requests more it would carry.
func (c *poolConn) Available() int {
	if full := c.full.Load(); full != nil {
		return full.Available()
	}
	if c.direct.available() {
		return 1
	}
	return 0
}

// Err is why the connection is of no more use; nil if it is.
func (c *poolConn) Err() error {
	if full := c.full.Load(); full != nil {
		return full.Err()
	}
	return c.direct.Err()
}

// asleep reports whether c, which nobody else uses, is open and silent. An http.ClientConn sees for itself what happens meanwhile.
func (c *poolConn) asleep() bool {
	if c.full.Load() != nil {
		return c.Err() == nil
	}
	return c.direct.look()
}

// cause says why c, which is closed, was closed. The server's opinion of our certificate comes after the handshake
// (RFC 8446, section 4.4.2.4), and only TLS keeps it.
func (c *poolConn) cause() error {
	if t, ok := c.net.(*tls.Conn); ok && c.full.Load() != nil {
		if _, err := t.Read(make([]byte, 1)); err != nil {
			return err
		}
	}
	return c.Err()
}

// shut closes c. TLS would wait up to five seconds for a peer that reads nothing to take the goodbye.
func (c *poolConn) shut() {
	if t, ok := c.net.(*tls.Conn); ok {
		hard := time.AfterFunc(resetWait, func() { _ = t.NetConn().Close() })
		defer hard.Stop()
	}
	if full := c.full.Load(); full != nil {
		_ = full.Close() // the peer may be gone
		return
	}
	c.direct.fail(net.ErrClosed)
	_ = c.net.Close() // as above
}
