package mesh

import (
	"context"
	"net/http"
	"time"

	"github.com/intramesh/mesh/policy"
)

// A Call is a request under way and its context, in one object: embed it in what an adapter keeps of a request. It is used once, and
// not copied. For adapters.
type Call struct {
	callContext

	request  *inflight // nil when it is over
	protocol CallProtocol
	conn     *serverConn
	gone     chan struct{} // closed by End when the call has been cut
}

// CallProtocol is what an adapter knows of a call. Its methods may be called from any goroutine, and be late: when the
// call is over.
type CallProtocol interface {
	// Header returns the call's headers. They must not change. It is called when a rule looks at them.
	Header() http.Header
	// Cut ends a call that is no longer allowed, whose context has been cancelled. It reports false when it can't: the
	// connection is closed then, if the call is not over in a moment.
	Cut(why *DeniedError) bool
}

// cutGrace is left to a handler of a protocol without a way to break one request, before its connection is closed.
const cutGrace = 50 * time.Millisecond

// Admit decides a request of the peer (see [PeerFromConn]) like [Mesh.Authorize] does, and again for as long as it is under
// way: c becomes a context, derived from ctx, in which [PeerFromContext] finds the peer. It is cancelled, with a *DeniedError as its
// cause, when the request is no longer allowed. The caller calls c.End when the request is over. For adapters.
func (m *Mesh) Admit(ctx context.Context, from Peer, r *policy.Request, p CallProtocol, c *Call) error {
	sc, err := m.connOfPeer(from, r.Layer)
	if err != nil {
		return err
	}
	c.parent, c.peer = ctx, &sc.net.peer
	c.protocol, c.conn, c.request = p, sc, m.newInflight(c)
	c.request.req = *r
	if d := sc.admit(ctx, c.request); d != nil {
		c.request = nil
		return d
	}
	return nil
}

// End says that the call is over, and cancels its context. After the first time it does nothing.
func (c *Call) End() {
	if c.request == nil {
		return
	}
	c.conn.end(c.request)
	c.request = nil
	c.finish()
	if c.gone != nil { // nobody sets it any more
		close(c.gone)
		c.gone = nil
	}
}

func (c *Call) header() http.Header { return c.protocol.Header() }

func (c *Call) cut(d *DeniedError) {
	c.wake().cancel(d)
	gone, m := make(chan struct{}), c.conn.mesh
	c.gone = gone
	m.spawn(func() {
		if c.protocol.Cut(d) {
			return
		}
		select {
		case <-gone:
		case <-time.After(cutGrace):
			_ = c.conn.net.Close()
		case <-m.ctx.Done():
		}
	})
}
