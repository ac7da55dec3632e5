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
	defer func() { <-c.writing }()
	if c.wclosed {
		return 0, c.opError("write", syscall.EPIPE)
	}
	if len(p) == 0 {
		return 0, nil
	}
	buf := c.bufs.frames.Get().(*[maxRecord]byte)
	defer c.bufs.frames.Put(buf)
	if len(p) > maxPayload {
		return c.writeLarge(buf, p)
	}
	n, err := c.writeFrames(buf, p)
	if err != nil {
		return n, c.opError("write", c.whyNotWritten(err))
	}
	return n, nil
}

// writeLarge sends the records of one large Write together.
func (c *conn) writeLarge(buf *[maxRecord]byte, p []byte) (int, error) {
	big := c.bufs.corks.Get().(*[]byte)
	c.net.putCork(*big)
	n, err := c.writeFrames(buf, p)
	used, ferr := c.net.pullCork()
	*big = used
	c.bufs.corks.Put(big)
	if err == nil {
		err = ferr
	}
	if err != nil {
		return n, c.opError("write", c.whyNotWritten(err))
	}
	return n, nil
}

func (c *conn) writeFrames(buf *[maxRecord]byte, p []byte) (n int, err error) {
	for n < len(p) {
		k := copy(buf[frameHeader:], p[n:])
		putHeader(buf[:], frameData, k)
		if err := c.writeFrame(buf[:frameHeader+k]); err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}

// writeFrame hands one frame to TLS as one record. TLS never sees a timeout: see netConn.
func (c *conn) writeFrame(b []byte) error {
	if err := c.net.waitSpill(); err != nil {
		return err
	}
	if c.net.writeDeadline.Passed() {
		return os.ErrDeadlineExceeded
	}
	_, err := c.tls.Write(b)
	return err
}

// lockWrite takes the token that one writer holds.
func (c *conn) lockWrite() error {
	if c.isClosed() || c.failure.Load() != nil {
		return ErrClosed
	}
	select {
	case c.writing <- struct{}{}:
	default:
		select {
		case c.writing <- struct{}{}:
		case <-c.closed:
			return ErrClosed
		case <-c.net.writeDeadline.Done():
			return os.ErrDeadlineExceeded
		}
	}
	if c.net.writeDeadline.Passed() {
		<-c.writing
		return os.ErrDeadlineExceeded
	}
	return nil
}

// CloseWrite ends this direction: the peer reads io.EOF after what was written. Reading goes on.
func (c *conn) CloseWrite() error {
	if err := c.lockWrite(); err != nil {
		return c.opError("close", err)
	}
	defer func() { <-c.writing }()
	if err := c.sendEnd(); err != nil {
		return c.opError("close", err)
	}
	return nil
}

func (c *conn) sendEnd() error {
	if c.wclosed {
		return nil
	}
	var b [frameHeader]byte
	putHeader(b[:], frameEnd, 0)
	if err := c.writeFrame(b[:]); err != nil {
		return err
	}
	c.wclosed = true
	return nil
}
