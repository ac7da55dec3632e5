package mesh

import (
	"sync"
	"time"
)

// expiries looks at accepted connections again when a certificate of the caller's has ended. One timer serves all of them: one of its own would
// cost each a quarter KiB. The zero value is ready.
type expiries struct {
	mu    sync.Mutex
	queue []*serverConn // a binary heap by expires: the next one is the first (container/heap would be 4 KB of every program)
	timer *time.Timer   // nil while there was none
}

// expirySlack is how long after its NotAfter a certificate is looked at: that second belongs to it.
const expirySlack = 10 * time.Millisecond

func (e *expiries) add(sc *serverConn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sc.expires = sc.nextExpiry()
	if sc.over {
		return
	}
	e.queue = append(e.queue, sc)
	e.sift(sc, len(e.queue)-1)
	if e.queue[0] == sc {
		e.arm()
	}
}

// remove is for a connection that has ended.
func (e *expiries) remove(sc *serverConn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sc.over = true
	e.drop(sc)
	if len(e.queue) == 0 && e.timer != nil {
		e.timer.Stop()
	}
}

func (e *expiries) arm() {
	sc := e.queue[0]
	wait := time.Until(time.Unix(sc.expires, 0)) + expirySlack
	if e.timer == nil {
		e.timer = time.AfterFunc(wait, func() { sc.mesh.spawn(e.look) })
		return
	}
	e.timer.Reset(wait)
}

func (e *expiries) look() {
	e.mu.Lock()
	var due []*serverConn
	for now := time.Now().Add(-expirySlack).Unix(); len(e.queue) > 0 && e.queue[0].expires <= now; {
		due = append(due, e.queue[0])
		e.drop(e.queue[0])
	}
	if len(e.queue) > 0 {
		e.arm()
	}
	e.mu.Unlock()
	for _, sc := range due {
		if sc.verify() {
			e.add(sc) // what ended was not needed
		}
	}
}

// drop takes sc out of the queue, if it is there.
func (e *expiries) drop(sc *serverConn) {
	i, last := int(sc.place)-1, len(e.queue)-1
	if i < 0 {
		return
	}
	sc.place = 0
	moved := e.queue[last]
	e.queue[last] = nil
	e.queue = e.queue[:last]
	if i != last {
		e.sift(moved, i)
	}
}

// sift puts sc where it belongs, the free place i or one above or below it.
func (e *expiries) sift(sc *serverConn, i int) {
	put := func(sc *serverConn, i int) { e.queue[i], sc.place = sc, int32(i+1) } //nolint:gosec // there are not as many file descriptors
	for i > 0 && sc.expires < e.queue[(i-1)/2].expires {
		put(e.queue[(i-1)/2], i)
		i = (i - 1) / 2
	}
	for {
		child := 2*i + 1
		if child+1 < len(e.queue) && e.queue[child+1].expires < e.queue[child].expires {
			child++
		}
		if child >= len(e.queue) || sc.expires <= e.queue[child].expires {
			break
		}
		put(e.queue[child], i)
		i = child
	}
	put(sc, i)
}
