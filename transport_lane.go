package mesh

import (
	"errors"
	"math"
	"net/http"
	"time"
)

// A lane is a connection over HTTP/1.1 to an endpoint that speaks HTTP/2 as well. While few requests are under way, each costs a
// third less CPU there (docs/performance.md); but a lane carries one at a time, and when it breaks, nobody knows what became of that
// one. Hence requests take lanes only if they may be repeated and mean the same in both versions, nobody waits for a lane, and each
// is to be earned.

const (
	// maxLanes bounds the lanes of an endpoint, and how many requests are under way over HTTP/2 when another one is opened: with 256 there
	// is little difference left.
	maxLanes = 64
	// lanePrice is how many requests have to find no lane free until another one is opened: they have cost as much more by then as
	// its handshake will. So all of it never costs more than twice what it would have, had the future been known.
	lanePrice = 64
	// maxLanePrice is what the price rises to while lanes break before they have paid off, fourfold each time.
	maxLanePrice = lanePrice << 10
	// watchTime is how often somebody looks after requests on lanes.
	watchTime = 5 * time.Second
)

// fitsLane reports whether a request, which has no body, means the same over HTTP/1.1: what HTTP/2 has no
// place for (RFC 9113, section 8.2.2) must not begin to mean something, however it is spelled (net/http sends such spellings as they
// are, and a length would make the next request a body), nor what it asks for get lost.
func fitsLane(req *http.Request) bool {
	if req.Close || req.Method == http.MethodConnect || req.URL.Opaque != "" || len(req.TransferEncoding)+len(req.Trailer) > 0 {
		return false
	}
	for k := range req.Header {
		switch http.CanonicalHeaderKey(k) {
		case "Connection", "Content-Length", "Expect", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
			return false
		}
	}
	return true
}

// earn counts a request that goes over HTTP/2 for want of a lane, and opens one when they have come to its price. The caller holds
// mu.
func (p *pool) earn() {
	if p.earned++; p.earned < p.price || p.opening || p.retired {
		return
	}
	p.earned = 0
	lanes := 0
	for _, c := range p.conns {
		if c.lane {
			lanes++
		}
	}
	if lanes < maxLanes {
		p.opening = true
		p.transport.wg.Go(p.openLane)
	}
}

func (p *pool) openLane() {
	p.transport.watchLanes()
	c, err := p.connect(p.transport.ctx, alpnHTTP1)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening = false
	switch {
	case err == nil && spoken(c.net) == alpnHTTP1:
		c.lane = true
		_ = p.add(c) // or the pool was closed
	case err == nil:
		c.shut() // crypto/tls lets clients of HTTP/1.1 in, for old ones' sake, where HTTP/2 is all that is spoken
		p.price = math.MaxInt
	case speaksOther(err):
		p.price = math.MaxInt
	default:
		p.lostLane(0)
	}
}

// lostLane raises the price if a lane broke before it had paid off. The caller holds mu.
func (p *pool) lostLane(served int) {
	if p.price = min(4*p.price, maxLanePrice); served >= lanePrice {
		p.price = lanePrice
	}
}

// watchLanes sees to it that lanes are watched as long as there are any.
func (t *transport) watchLanes() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watcher == nil && !t.closed {
		t.watcher = time.AfterFunc(watchTime, t.watch)
	}
}

func (t *transport) watch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watcher = nil; t.closed {
		return
	}
	t.wg.Go(func() {
		for _, p := range t.allPools() {
			if p.watch() {
				t.watchLanes()
			}
		}
	})
}

// watch looks after requests that have been on a lane since the last time: HTTP/1.1 has no ping, by which HTTP/2 would notice that
// the endpoint is gone without a word. It reports whether there are lanes.
func (p *pool) watch() (lanes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var waiting []*poolConn
	for _, c := range p.conns {
		if !c.lane {
			continue
		}
		lanes = true
		if c.users > 0 && c.watched == c.served {
			waiting = append(waiting, c)
		}
		c.watched = c.served
	}
	if len(waiting) > 0 {
		p.transport.wg.Go(func() {
			if p.silent() {
				for _, c := range waiting {
					c.shut()
				}
			}
		})
	}
	return lanes || p.opening
}

// silent reports whether the endpoint does not answer over HTTP/2 either, which has to be there for that. An endpoint that refuses is
// not silent: its system would also have ended what is open.
func (p *pool) silent() bool {
	c, _, err := p.acquire(p.transport.ctx, false, false, 0)
	if err == nil {
		c.Release()
		p.release(c)
		return false
	}
	de, ok := errors.AsType[*DialError](err)
	return ok && de.Timeout()
}
