package mesh

import (
	"slices"
	"time"
)

// minDials is how many connections to one endpoint are made at one time, and how many there are before anybody waits, for requests over
// HTTP/1.1, each of which needs one alone. A burst of requests must not become one of handshakes, which cost more than they do.
const minDials = 8

// A queue holds the requests that wait for a connection over HTTP/1.1, first come, first served: for one that is free again, or, when
// that takes longer than making one does, for a new one. It is guarded by the pool's mutex.
type queue struct {
	waiters []waiter
	dials   int           // under way
	took    time.Duration // how long they take, of late
	given   int           // counts connections that became free
	armed   bool          // there will be a look at who waits for long
}

// A waiter is sent a grant, once.
type waiter struct {
	granted chan grant
	since   time.Time
}

// A grant is a connection, or an error; if it is neither, the request should look again.
type grant struct {
	conn   *poolConn
	reused bool
	err    error
}

// enqueue has a request wait. The caller holds mu.
func (p *pool) enqueue() chan grant {
	w := waiter{make(chan grant, 1), time.Now()}
	p.queue.waiters = append(p.queue.waiters, w)
	p.dialForWaiters()
	return w.granted
}

// dialForWaiters makes connections if too few are on their way: as many again as there are, at most, for those who have waited as
// long as that takes. The caller holds mu.
func (p *pool) dialForWaiters() {
	q := &p.queue
	if p.closed {
		return
	}
	for q.dials < len(q.waiters) && len(p.conns)+q.dials < minDials {
		p.startDial()
	}
	now := time.Now()
	for q.dials < min(len(q.waiters), max(len(p.conns), minDials)) && now.Sub(q.waiters[q.dials].since) >= q.took {
		p.startDial()
	}
	if len(q.waiters) > q.dials && !q.armed {
		q.armed = true
		time.AfterFunc(max(q.took, time.Millisecond), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			q.armed = false
			p.dialForWaiters()
		})
	}
}

// give hands a free connection over HTTP/1.1 to the request that has waited longest, or keeps it for the next. The caller holds mu.
func (p *pool) give(c *poolConn) {
	p.queue.given++
	switch {
	case len(p.queue.waiters) == 0:
		p.idle = append(p.idle, c)
	case c.Reserve() != nil:
		p.forget(c) // the server has closed it
	default:
		c.users = 1
		c.served++
		p.answer(grant{conn: c, reused: c.served > 1})
	}
}

// answer sends g to the request that has waited longest, answerAll to all. The caller holds mu.
func (p *pool) answer(g grant) {
	p.queue.waiters[0].granted <- g
	p.queue.waiters = slices.Delete(p.queue.waiters, 0, 1)
}

func (p *pool) answerAll(g grant) {
	for len(p.queue.waiters) > 0 {
		p.answer(g)
	}
}

// dialed tells those who wait what came of a dial. When it failed, and no connection became free meanwhile, nobody needs to wait any
// longer; otherwise it is one request that fails, or goes elsewhere. The caller holds mu.
func (p *pool) dialed(d *dialCall) {
	p.queue.dials--
	if d.err == nil {
		p.queue.took = (3*p.queue.took + time.Since(d.start)) / 4
	}
	switch {
	case p.closed, d.err == nil && !p.http1:
		p.answerAll(grant{})
	case d.err != nil && d.given == p.queue.given:
		p.answerAll(grant{err: d.err})
	case d.err != nil && len(p.queue.waiters) > 0:
		p.answer(grant{err: d.err})
	}
	p.dialForWaiters()
}

// accept takes what was granted. Without a connection or an error, the request should look again.
func (p *pool) accept(g grant) (*poolConn, error) {
	if g.conn == nil || g.reused || g.conn.Err() == nil {
		return g.conn, g.err
	}
	err := p.dialError(g.conn.cause())
	p.release(g.conn)
	return nil, err
}

// leave is called by a request that waits no longer. What it was granted in the same moment is another one's.
func (p *pool) leave(granted chan grant) {
	p.mu.Lock()
	i := slices.IndexFunc(p.queue.waiters, func(w waiter) bool { return w.granted == granted })
	if i >= 0 {
		p.queue.waiters = slices.Delete(p.queue.waiters, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		return
	}
	if g := <-granted; g.conn != nil {
		g.conn.Release()
		p.release(g.conn)
	}
}
