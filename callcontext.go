package mesh

import (
	"context"
	"sync/atomic"
	"time"
)

// callContext is the context of a request: its parent's, with the peer, until it is cancelled or the request is over. It is part of
// what is kept of the request anyway, and registers at its parent only once somebody waits for its end: a handler
// that answers at once pays for no context.
type callContext struct {
	parent context.Context //nolint:containedctx // it is a context
	peer   *Peer
	over   atomic.Bool
	live   atomic.Pointer[liveContext] // nil until somebody waits
}

type liveContext struct {
	context.Context //nolint:containedctx // it is part of one
	cancel          context.CancelCauseFunc
}

// Deadline implements context.Context.
func (c *callContext) Deadline() (time.Time, bool) { return c.parent.Deadline() }

// Done implements context.Context.
func (c *callContext) Done() <-chan struct{} { return c.wake().Done() }

// Err implements context.Context.
func (c *callContext) Err() error {
	if l := c.live.Load(); l != nil {
		return l.Err()
	}
	if c.over.Load() {
		return context.Canceled
	}
	return c.parent.Err()
}

// Value implements context.Context.
func (c *callContext) Value(key any) any {
	if _, ok := key.(peerKey); ok {
		return c.peer
	}
	if l := c.live.Load(); l != nil {
		return l.Value(key) // its cause, among others
	}
	return c.parent.Value(key)
}

func (c *callContext) wake() *liveContext {
	if l := c.live.Load(); l != nil {
		return l
	}
	l := new(liveContext)
	l.Context, l.cancel = context.WithCancelCause(c.parent)
	if !c.live.CompareAndSwap(nil, l) {
		l.cancel(nil)
		return c.live.Load()
	}
	if c.over.Load() { // finish has not seen it, perhaps
		l.cancel(nil)
	}
	return l
}

// finish cancels the context without a cause.
func (c *callContext) finish() {
	c.over.Store(true)
	if l := c.live.Load(); l != nil {
		l.cancel(nil)
	}
}
