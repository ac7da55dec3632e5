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
	detached := c.detached.Load()
	l.mu.Unlock()
	if !first {
		return err
	}
	if c.counted {
		defer c.account()
	}
	switch {
	case detached:
		l.forget()
		return nil
	case l.failure.Load() != nil:
		return nil // reset closes it, once the peer has been told
	}
	select {
	case l.writing <- struct{}{}:
	default: // a Write is blocked: break it
		if !c.followed() {
			return l.net.Close()
		}
		_ = l.net.SetWriteDeadline(past())
		l.mesh.spawn(func() { l.closeBroken(c) })
		return nil
	}
	reuse := !c.detached.Load() && l.net.clearWriteDeadline() && c.leave()
	if c.detached.Load() { // meanwhile
		<-l.writing
		l.forget()
		return nil
	}
	reuse = reuse && l.home.claim(l)
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
		if !l.sayNow(c.opening(), c.epoch) {
			return false
		}
		c.opened.Store(true)
	}
	switch {
	case reuse && c.owes():
		l.owed = true
		return true
	case reuse && (l.ended || !l.accepted()):
		return !l.accepted() && l.gone && c.wclosed || l.sayNow(frameClose, c.epoch)
	case c.wclosed:
		return true
	}
	return l.sayNow(frameEnd, c.epoch)
}

// closeLater closes the link when what is left to be sent has been. It has the token.
func (l *link) closeLater(c *conn) {
	ctx, cancel := context.WithTimeout(l.mesh.ctx, closeWait)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = l.net.Close() })()
	_ = l.net.SetWriteDeadline(time.Time{})
	if l.net.waitSpill() == nil && !c.wclosed {
		_ = l.say(frameEnd, c.epoch) // once more, perhaps, which does no harm
		_ = l.net.waitSpill()
	}
	l.goOn(c)
}

// closeBroken is closeLater for a brief stream with a Write under way, which breaks off. The client must not take what it got for all.
func (l *link) closeBroken(c *conn) {
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case l.writing <- struct{}{}:
	case <-t.C:
		_ = l.net.Close()
		return
	}
	if l.sayNow(frameBye, c.epoch) {
		l.bye.Store(true)
	}
	c.wclosed = true // no frameEnd, then
	l.closeLater(c)
}

// followed reports whether the next stream may be on its way.
func (c *conn) followed() bool { return c.brief && c.link.accepted() }

// goOn closes the link after a stream, or parks it if there may be another one on its way. The caller has the token.
func (l *link) goOn(c *conn) {
	ok := c.followed() && l.net.clearWriteDeadline() && c.leave()
	switch {
	case c.detached.Load():
		<-l.writing
		l.forget()
	case ok && l.home.claim(l):
		<-l.writing
		l.home.park(l)
	default:
		_ = l.net.Close()
	}
}

// leave makes the stream forget its link, and reports whether that is fit for another one: nothing is left of this one, or
// on its way, except the peer's word that it is over.
func (c *conn) leave() bool {
	l := c.link
	writes := true
	if !c.rmu.TryLock() {
		c.wake() // there is a Read: it finds that the stream is closed
		// TLS may be writing in it: it answers key updates, for which the peer may leave no room.
		_ = l.net.SetWriteDeadline(past())
		c.rmu.Lock()
		writes = l.net.clearWriteDeadline()
	}
	defer c.rmu.Unlock()
	if c.detached.Load() {
		return false
	}
	if c.followed() {
		l.skip, l.skipped, l.left = l.skip+l.left, l.skipped+l.left, 0
	}
	if !writes || l.readErr != nil || l.left > 0 || l.control != nil || l.net.try() == nil {
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

// wake ends a Read.
func (c *conn) wake() {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if !c.detached.Load() {
		c.readDeadline.Store(1)
		_ = c.link.net.SetReadDeadline(past())
	}
}
