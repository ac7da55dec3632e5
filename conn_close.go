package mesh

import (
	"context"
	"time"
)

// closeWait bounds how long what was written may take to leave after Close, if the peer reads slowly.
const closeWait = 10 * time.Second

// Close ends both directions. Reads and writes in progress return ErrClosed. What was written is still sent, unless a Write
// is in progress; the peer then reads the end of the stream, and the link may serve another one.
func (c *conn) Close() error {
	l := c.link
	l.mu.Lock()
	first := !c.closed.Load()
	err := error(nil)
	if !first {
		err = c.opError("close", ErrClosed)
	}
	c.closed.Store(true)
	l.mu.Unlock()
	if !first {
		return err
	}
	if c.counted {
		defer c.account()
	}
	if l.failure.Load() != nil {
		return nil // reset closes it, once the peer has been told
	}
	select {
	case l.writing <- struct{}{}:
	default:
		return l.net.Close() // a Write is blocked: break it
	}
	reuse := l.net.clearWriteDeadline() && c.leave() && l.home.claim(l)
	switch {
	case !c.sayClosed(reuse):
		if reuse {
			l.home.unclaim(l)
		}
		l.mesh.spawn(func() { l.closeLater(c) })
		return nil
	case !reuse:
		return l.net.Close()
	}
	<-l.writing
	l.home.park(l)
	return nil
}

// sayClosed tells the peer that the stream is over, and whether there may be another one. It reports whether that was sent at
// once.
func (c *conn) sayClosed(reuse bool) bool {
	l := c.link
	if l.net.spilling() {
		return false
	}
	if !c.opened.Load() {
		if !l.sayNow(frameOpen, c.epoch) {
			return false
		}
		c.opened.Store(true)
	}
	switch {
	case reuse && (l.ended || !l.accepted()):
		return !l.accepted() && l.gone && c.wclosed || l.sayNow(frameClose, c.epoch)
	case c.wclosed:
		return true
	}
	return l.sayNow(frameEnd, c.epoch)
}

// closeLater closes the link when what is left to be sent has been. It has the token.
func (l *link) closeLater(c *conn) {
	defer l.net.Close()
	ctx, cancel := context.WithTimeout(l.mesh.ctx, closeWait)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.net.Close() })()
	_ = l.net.SetWriteDeadline(time.Time{})
	if l.net.waitSpill() == nil && !c.wclosed {
		_ = l.say(frameEnd, c.epoch) // once more, perhaps, which does no harm
		_ = l.net.waitSpill()
	}
}

// leave makes the stream forget its link, and reports whether that is fit for another one: nothing is left of this one, or
// on its way, except the peer's word that it is over.
func (c *conn) leave() bool {
	l := c.link
	if !l.rmu.TryLock() {
		_ = l.net.SetReadDeadline(past()) // there is a Read: it finds that the stream is closed
		l.rmu.Lock()
		c.readDeadline.Store(1)
	}
	defer l.rmu.Unlock()
	if l.readErr != nil || l.left > 0 || cap(l.control) > 0 || l.net.try() == nil {
		return false
	}
	if c.readDeadline.Load() != 0 && l.net.SetReadDeadline(time.Time{}) != nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure.Load() != nil {
		return false
	}
	l.stream = nil
	return true
}
