package mesh

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxParked bounds the connections of a listener that wait for their next stream; they cost some 20 KiB each. Above it
	// any other one has to go.
	maxParked = 1024
	// parkTime bounds how long. Clients give up earlier, so that they don't send what nobody reads.
	parkTime = 90 * time.Second
	// byeTime is how long after frameBye a stream that was on its way is still served.
	byeTime = time.Second
	// maxIdle bounds the goroutines of a listener that wait for another link, some 10 KiB each.
	maxIdle = 8
	// maxPings bounds how many frames between two streams are answered.
	maxPings = 64
)

// A lot is where a listener keeps links between streams.
type lot struct {
	mu     sync.Mutex
	links  map[*link]struct{}
	closed bool
	wg     sync.WaitGroup // of the links

	// What waits for the next stream is a goroutine, which may serve another link afterwards: its stack has grown.
	free    chan *link
	idle    atomic.Int32
	workers sync.WaitGroup
}

func newLot() *lot { return &lot{links: make(map[*link]struct{}), free: make(chan *link)} }

func (p *lot) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.links) >= 2*maxParked || l.net.SetReadDeadline(time.Now().Add(parkTime)) != nil {
		return false
	}
	if len(p.links) >= maxParked {
		for other := range p.links {
			if !other.leaving {
				sendOff(other) // it is here a little longer
				break
			}
		}
	}
	p.links[l] = struct{}{}
	p.wg.Add(1)
	return true
}

// remove reports false when the lot was closed meanwhile.
func (p *lot) remove(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
	return !p.closed
}

// extend gives a link that says frameBye some time. It reports false when there is none.
func (p *lot) extend(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed && l.net.SetReadDeadline(time.Now().Add(byeTime)) == nil
}

// sendOff has a parked link say frameBye. The lot's mutex is held.
func sendOff(l *link) {
	l.leaving = true
	_ = l.net.SetReadDeadline(past())
}

func (p *lot) sendOff(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sendOff(l)
}

// empty sends off all links.
func (p *lot) empty() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		sendOff(l)
	}
}

// close ends all links, and waits for their goroutines.
func (p *lot) close() {
	p.mu.Lock()
	p.closed = true
	for l := range p.links {
		sendOff(l)
	}
	p.mu.Unlock()
	p.wg.Wait()
	close(p.free) // nothing is parked any more
	p.workers.Wait()
}

func (ln *listener) claim(l *link) bool {
	return (l.brief || !l.bye.Load()) && l.net.peer.conn.settled() && ln.lot.add(l)
}

func (ln *listener) unclaim(l *link) {
	ln.lot.remove(l)
	ln.lot.wg.Done()
}

// park waits for the next stream of l.
func (ln *listener) park(l *link) {
	select {
	case ln.lot.free <- l:
	default:
		ln.lot.workers.Add(1)
		go ln.work(l)
	}
}

// work serves parked links, one after the other.
func (ln *listener) work(l *link) {
	defer ln.lot.workers.Done()
	for ok := true; ok; {
		ln.await(l)
		if ln.lot.idle.Add(1) <= maxIdle {
			l, ok = <-ln.lot.free
		} else {
			ok = false
		}
		ln.lot.idle.Add(-1)
	}
}

func (ln *listener) await(l *link) {
	defer ln.lot.wg.Done()
	switch {
	case l.bye.Load():
		ln.lot.extend(l)
	case !ln.mesh.current(l, time.Now()):
		ln.lot.sendOff(l)
	}
	open := ln.awaitOpen(l)
	if !ln.lot.remove(l) || !open || l.net.SetReadDeadline(time.Time{}) != nil {
		_ = l.net.Close()
		return
	}
	ln.serve(l)
}

// awaitOpen returns true once the next stream has begun.
func (ln *listener) awaitOpen(l *link) bool {
	if l.begun {
		return ln.awaitQuiet(l)
	}
	l.net.tryWrites.Add(1)
	defer l.net.tryWrites.Add(-1)
	told := l.ended // that the stream is over
	for pings := 0; ; {
		if l.ended && !told {
			if told = true; !l.sayIdle(frameClose, l.epoch) {
				return false
			}
		}
		f, err := l.readFrame()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if l.bye.Load() || l.failure.Load() != nil || !ln.lot.extend(l) || !l.sayIdle(frameBye, l.epoch) {
				return false
			}
			l.bye.Store(true)
		case err != nil:
			return false
		case l.opens(f) && (l.ended || l.brief):
			l.turn(f)
			return true
		case l.skips(f):
		case f.frameType == framePing && f.epoch == l.epoch && l.ended && pings < maxPings:
			pings++
			if !l.sayIdle(framePing, l.epoch) {
				return false
			}
		case !l.settle(f):
			return false
		}
	}
}

// sayIdle is sayNow for who does not write, and does not wait for who does.
func (l *link) sayIdle(t frameType, epoch byte) bool {
	select {
	case l.writing <- struct{}{}:
		defer func() { <-l.writing }()
		return l.sayNow(t, epoch)
	default:
		return false // it is being reset
	}
}
