package mesh

import (
	"os"
	"syscall"
)

// Write sends p. On a timeout it returns how many bytes were taken; those will be sent.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.lockWrite(); err != nil {
		return 0, c.opError("write", err)
	}
	defer c.written()
	if c.wclosed || c.peerGone.Load() || c.detached.Load() {
		return 0, c.opError("write", syscall.EPIPE)
	}
	if len(p) == 0 {
		return 0, nil
	}
	bufs := c.link.mesh.buffers
	buf := bufs.frames.Get().(*[maxRecord]byte)
	defer bufs.frames.Put(buf)
	if len(p) > maxPayload && (len(p) != maxRecord || !c.bare(p)) {
		return c.writeLarge(buf, p)
	}
	n, err := c.writeFrames(buf, p)
	if err != nil {
		return n, c.opError("write", c.whyNotWritten(err))
	}
	return n, nil
}

// written gives the token back after a Write.
func (c *conn) written() {
	<-c.link.writing
	c.watch()
}

// writeLarge sends the records of one large Write together.
func (c *conn) writeLarge(buf *[maxRecord]byte, p []byte) (int, error) {
	n := c.link.net
	bufs := c.link.mesh.buffers
	big := bufs.corks.Get().(*[]byte)
	n.putCork(*big)
	written, err := c.writeFrames(buf, p)
	used, ferr := n.pullCork()
	*big = used
	bufs.corks.Put(big)
	if err == nil {
		err = ferr
	}
	if err != nil {
		return written, c.opError("write", c.whyNotWritten(err))
	}
	return written, nil
}

func (c *conn) writeFrames(buf *[maxRecord]byte, p []byte) (n int, err error) {
	for n < len(p) {
		if c.detached.Load() {
			return n, syscall.EPIPE // nobody will read it
		}
		t, k, b := frameData, maxRecord, p[n:]
		if c.bare(b) {
			b = b[:k]
		} else {
			if !c.opened.Load() {
				t = c.opening()
			}
			k = copy(buf[frameHeader:], b)
			putHeader(buf[:], t, c.epoch, k)
			b = buf[:frameHeader+k]
		}
		if c.tally != nil {
			c.tally.sent.Add(int64(k))
		}
		if err := c.link.writeFrame(b); err != nil {
			return n, err
		}
		if t != frameData {
			c.opened.Store(true)
		}
		c.link.said = c.epoch
		n += k
	}
	return n, nil
}

// bare reports whether p begins with maxRecord bytes that go without a header. The caller holds the token.
func (c *conn) bare(p []byte) bool {
	return len(p) >= maxRecord && !isHeader(p[0]) && c.link.said == c.epoch && c.opened.Load()
}

// lockWrite takes the token that one writer holds.
func (c *conn) lockWrite() error {
	switch {
	case c.broken():
		return ErrClosed
	case c.detached.Load():
		return syscall.EPIPE // a later stream may have the token
	}
	l := c.link
	select {
	case l.writing <- struct{}{}:
	default:
		select {
		case l.writing <- struct{}{}: // Close breaks the write that has it
		case <-l.net.writeDeadline():
			if l.net.isClosed() {
				return ErrClosed // by somebody who keeps the token
			}
			return os.ErrDeadlineExceeded
		}
	}
	switch {
	case c.broken():
		<-l.writing
		return ErrClosed
	case l.net.writeTimedOut():
		<-l.writing
		return os.ErrDeadlineExceeded
	}
	return nil
}

// CloseWrite ends this direction: the peer reads io.EOF after what was written. Reading goes on.
func (c *conn) CloseWrite() error {
	if c.detached.Load() && !c.closed.Load() {
		return nil
	}
	if err := c.lockWrite(); err != nil {
		return c.opError("close", err)
	}
	defer func() { <-c.link.writing }()
	if c.wclosed || c.detached.Load() {
		return nil
	}
	err := c.openLocked()
	if err == nil {
		err = c.link.say(frameEnd, c.epoch)
	}
	if err != nil {
		return c.opError("close", err)
	}
	c.wclosed = true
	return nil
}
