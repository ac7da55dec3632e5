package mesh

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// idleTimeout is how long an unused connection is kept.
	idleTimeout = 90 * time.Second
	// maxStreams is how many requests share an HTTP/2 connection before another one is opened: they also share its
	// flow control, its write lock and the fate of a lost packet. From maxConns on, connections fill up to the
	// server's own limit.
	maxStreams = 64
	maxConns   = 8
)

// A pool holds the connections to one endpoint.
type pool struct {
	transport *transport
	target    target
	endpoint  endpoint

	mu      sync.Mutex
	conns   []*poolConn
	idle    []*poolConn // those of HTTP/1.1 without a user, lanes or not; the one that was used last is the last
	dialing *dialCall   // that all wait for: HTTP/2, or the first one
	http1   bool        // what the last connection spoke
	queue   queue       // for HTTP/1.1
	retired bool        // discovery no longer offers the endpoint
	closed  bool

	// See earn: what the next lane costs, how much of it there is, and whether it is on its way.
	price, earned int
	opening       bool

	view *endpointView // what retired was decided by; guarded by the transport's mutex
}

// errPoolGone is returned by a pool that was closed, which may have happened since it was empty: there may be a new one.
var errPoolGone = errors.New("connection pool closed")

// errSlow is returned by a pool that has no connection yet, though it was waited for. It goes on connecting.
var errSlow = errors.New("connecting takes long")

// dialCall is a connection being made. Once done is closed, either conn or err is there.
type dialCall struct {
	done  chan struct{}
	conn  *poolConn
	err   error
	start time.Time
	given int // what the queue's was at the start
}

// acquire returns a connection that takes one more request, and whether it has carried any before. The
// caller owes a RoundTrip (or Release), then pool.release. With fresh, connections that exist now are
// not used; without lane, lanes are not. With patience, it gives up waiting for a new one after that time, with errSlow.
func (p *pool) acquire(ctx context.Context, fresh, lane bool, patience time.Duration) (*poolConn, bool, error) {
	for {
		c, reused, err := p.take(ctx, fresh, lane, patience)
		if err != nil || !reused || !c.http1 || c.asleep() {
			return c, reused, err
		}
		c.Release()
		p.release(c) // the server has closed it
	}
}

// take is acquire, but a connection may have been closed meanwhile.
func (p *pool) take(ctx context.Context, fresh, lane bool, patience time.Duration) (*poolConn, bool, error) {
	var over <-chan time.Time
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, false, errPoolGone
		}
		if !fresh {
			if c := p.reserve(lane); c != nil {
				c.served++
				reused := c.served > 1
				p.mu.Unlock()
				return c, reused, nil
			}
		}
		if over == nil && patience > 0 {
			t := time.NewTimer(patience)
			defer t.Stop()
			over = t.C
		}
		if p.http1 && !fresh {
			w := p.enqueue()
			p.mu.Unlock()
			select {
			case g := <-w:
				if c, err := p.accept(g); c != nil || err != nil {
					return c, g.reused, err
				}
				continue
			case <-over:
				p.leave(w)
				return nil, false, errSlow
			case <-ctx.Done():
				p.leave(w)
				return nil, false, context.Cause(ctx)
			}
		}
		d := p.dialing
		if d == nil {
			d = p.startDial()
			if !p.http1 {
				p.dialing = d
			}
		}
		p.mu.Unlock()
		select {
		case <-d.done:
		case <-over:
			return nil, false, errSlow
		case <-ctx.Done():
			return nil, false, context.Cause(ctx)
		}
		if d.err != nil {
			return nil, false, d.err
		}
		if d.conn.Err() != nil {
			return nil, false, p.dialError(d.conn.cause())
		}
		fresh = false // somebody else may have been quicker to take it: look again
	}
}

// reserve takes the HTTP/1.1 connection that was used last, or else a place on the HTTP/2 connection with the fewest users, the
// newest of equals. It returns nil when another connection should be opened.
func (p *pool) reserve(lane bool) *poolConn {
	if lane || p.http1 {
		for n, c := range slices.Backward(p.idle) {
			p.idle = p.idle[:n]
			if c.Reserve() == nil {
				c.users = 1
				return c
			}
			p.forget(c) // the server has closed it
		}
	}
	var best *poolConn
	shared, users := 0, 0
	p.conns = slices.DeleteFunc(p.conns, func(c *poolConn) bool {
		if c.http1 {
			return false
		}
		if c.Err() != nil {
			return true
		}
		shared, users = shared+1, users+c.users
		if (best == nil || c.users <= best.users) && c.Available() > 0 {
			best = c
		}
		return false
	})
	if best == nil || best.users >= maxStreams && shared < maxConns && p.dialing == nil {
		return nil
	}
	if best.Reserve() != nil {
		return nil // closed this very moment
	}
	best.users++
	if lane && users+1 < maxLanes {
		p.earn()
	}
	return best
}

// forget drops a connection that broke.
func (p *pool) forget(c *poolConn) {
	p.conns = slices.DeleteFunc(p.conns, func(o *poolConn) bool { return o == c })
	if c.lane {
		p.lostLane(c.served)
	}
}

// startDial begins to connect. The dial outlives the request: the next one will want the connection. The caller holds mu.
func (p *pool) startDial() *dialCall {
	d := &dialCall{done: make(chan struct{}), start: time.Now(), given: p.queue.given}
	p.queue.dials++
	p.transport.wg.Go(func() { p.dial(d) })
	return d
}

func (p *pool) dial(d *dialCall) {
	c, err := p.connect(p.transport.ctx, alpnHTTP2, alpnHTTP1)
	if err != nil && p.transport.ctx.Err() == nil && !speaksOther(err) {
		p.transport.endpoints(p.transport.ctx, p.target).set.Failed(p.endpoint) // nobody may have waited as long
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dialing == d {
		p.dialing = nil
	}
	if err == nil {
		p.http1 = c.http1
		err = p.add(c)
	}
	d.conn, d.err = c, err
	close(d.done)
	p.dialed(d)
}

// dialSolo returns a connection for one request of HTTP/1.1, which will be closed after it.
func (p *pool) dialSolo(ctx context.Context) (*poolConn, error) {
	c, err := p.connect(ctx, alpnHTTP1)
	if err != nil {
		return nil, err
	}
	c.solo, c.users = true, 1
	p.mu.Lock()
	defer p.mu.Unlock()
	return c, p.add(c)
}

// add makes c known, or closes it when the pool is.
func (p *pool) add(c *poolConn) error {
	if p.closed {
		c.shut()
		return errPoolGone
	}
	p.conns = append(p.conns, c)
	if c.http1 && c.users == 0 {
		p.give(c)
	}
	return nil
}

func (p *pool) dialError(err error) error {
	return &DialError{Service: p.target.service, Port: p.target.port, Addr: p.endpoint.addr.String(), Attempts: 1, Err: err}
}

// release ends one use of c. When the response has ended, net/http has made an HTTP/1.1 connection available already, or never will.
func (p *pool) release(c *poolConn) {
	spoilt := c.http1 && c.Available() == 0
	p.mu.Lock()
	c.users--
	c.idleSince = time.Now()
	drop := c.users == 0 && (spoilt || c.solo || p.retired && len(p.queue.waiters) == 0 || p.closed)
	switch {
	case drop:
		p.forget(c)
	case c.http1:
		p.give(c)
	}
	p.mu.Unlock()
	if drop {
		c.shut()
	}
}

// closeIdle closes connections without users that were last used before a time, or that the server has closed, and
// returns how many stay.
func (p *pool) closeIdle(before time.Time) int {
	p.mu.Lock()
	var gone []*poolConn
	p.earned = 0
	p.conns = slices.DeleteFunc(p.conns, func(c *poolConn) bool {
		unused := c.users == 0 && (c.idleSince.Before(before) || !c.asleep())
		if unused {
			gone = append(gone, c)
		}
		return unused
	})
	p.idle = slices.DeleteFunc(p.idle, func(c *poolConn) bool { return slices.Contains(gone, c) })
	n := len(p.conns)
	p.mu.Unlock()
	for _, c := range gone {
		c.shut()
	}
	return n
}

// setRetired says whether discovery has given the endpoint up: its connections are closed once idle then.
func (p *pool) setRetired(retired bool) {
	p.mu.Lock()
	p.retired = retired
	p.mu.Unlock()
	if retired {
		p.closeIdle(time.Now().Add(time.Hour))
	}
}

// closeIfEmpty closes a pool that has no connections.
func (p *pool) closeIfEmpty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = p.closed || len(p.conns) == 0
	return p.closed
}

// close breaks all connections, and whatever uses them.
func (p *pool) close() {
	p.mu.Lock()
	conns := p.conns
	p.conns, p.idle, p.closed = nil, nil, true
	p.answerAll(grant{})
	p.mu.Unlock()
	for _, c := range conns {
		c.shut()
	}
}
