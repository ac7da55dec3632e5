package mesh

import (
	"context"
	"net"
	"time"
)

const (
	// headStart is the time that an address has before the next one of the same endpoint is tried too: RFC 8305's Connection
	// Attempt Delay.
	headStart = 250 * time.Millisecond
	// silence is the time for the handshake too, until another address or endpoint is tried beside: there are machines, and things
	// in front of them, that accept everything and then say nothing.
	silence = time.Second
)

// A race is a number of attempts to connect. The first to succeed counts.
type race struct {
	ctx     context.Context //nolint:containedctx // of the attempts; it ends with the race
	cancel  context.CancelFunc
	events  chan raceEvent // never full
	running int
	due     time.Time // when another attempt may begin beside those that run
}

// A raceEvent is the end of an attempt, or that it has got as far as being connected.
type raceEvent struct {
	which     int
	c         net.Conn
	err       error
	connected bool
}

func newRace(ctx context.Context, most int) *race {
	r := &race{events: make(chan raceEvent, 2*most)}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// start begins an attempt. It may call connected once.
func (r *race) start(which int, attempt func(ctx context.Context, connected func()) (net.Conn, error)) {
	r.running++
	go func() { // end waits for it
		c, err := attempt(r.ctx, func() { r.events <- raceEvent{which: which, connected: true} })
		r.events <- raceEvent{which: which, c: c, err: err}
	}()
}

// ready reports whether another attempt may begin.
func (r *race) ready() bool { return r.running == 0 || !time.Now().Before(r.due) }

// next returns the next event, or false when another attempt may begin, if there are more.
func (r *race) next(more bool) (raceEvent, bool) {
	var over <-chan time.Time
	if more {
		t := time.NewTimer(time.Until(r.due))
		defer t.Stop()
		over = t.C
	}
	select {
	case e := <-r.events:
		if !e.connected {
			r.running--
		}
		return e, true
	case <-over:
		return raceEvent{}, false
	}
}

// end breaks off the attempts that still run, and tells which.
func (r *race) end(lost func(which int)) {
	r.cancel()
	for r.running > 0 {
		switch e, _ := r.next(false); {
		case e.connected:
			continue
		case e.err == nil:
			_ = e.c.Close() // it comes too late
			fallthrough
		default:
			lost(e.which)
		}
	}
}
