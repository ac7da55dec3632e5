package mesh

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// conn is a raw connection as the application has it: one stream of a link.
//
// Reads and writes may happen at the same time; a Write that times out leaves the connection
// usable and reports how much was taken.
type conn struct {
	link  *link
	epoch byte

	closed atomic.Bool // changes with link.mu held
	// opened is set once the peer has been told of the stream. It changes with the token held.
	opened       atomic.Bool
	peerGone     atomic.Bool  // the peer has closed the stream
	readDeadline atomic.Int64 // Unix nanoseconds, 0 for none

	empty   int  // empty data frames in a row; guarded by link.rmu
	wclosed bool // guarded by the token

	release *picked // who is told when it is closed, if counted; nil on a server
	counted bool
	verdict atomic.Int32 // what is told, see reckon
}

// NetConn returns the connection below TLS, as (*tls.Conn).NetConn does.
func (c *conn) NetConn() net.Conn    { return c.link.net }
func (c *conn) LocalAddr() net.Addr  { return c.link.net.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.link.net.RemoteAddr() }

func (c *conn) opError(op string, err error) error {
	if c.closed.Load() {
		err = ErrClosed
	} else if d := c.link.failure.Load(); d != nil {
		err = d
	}
	if inner, ok := errors.AsType[*net.OpError](err); ok {
		err = inner.Err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// broken reports whether nothing can be read or written any more, whatever the peer does.
func (c *conn) broken() bool { return c.closed.Load() || c.link.failure.Load() != nil }

// Read returns io.EOF only after the peer ended its direction; a connection that was lost before
// gives another error. A refusal or a cut by the peer's rules is a *DeniedError.
func (c *conn) Read(p []byte) (int, error) {
	if !c.opened.Load() {
		if err := c.open(); err != nil {
			return 0, c.opError("read", err)
		}
	}
	l := c.link
	l.rmu.Lock()
	defer l.rmu.Unlock()
	if c.broken() {
		return 0, c.opError("read", ErrClosed)
	}
	if d := c.readDeadline.Load(); d != 0 && time.Now().UnixNano() >= d {
		return 0, c.opError("read", os.ErrDeadlineExceeded)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.nextData(); err != nil {
		if err == io.EOF { //nolint:errorlint // our own sentinel, as io.Reader wants it
			return 0, io.EOF
		}
		return 0, c.opError("read", err)
	}
	n, err := l.tls.Read(p[:min(len(p), l.left)])
	if c.broken() {
		return 0, c.opError("read", ErrClosed)
	}
	l.left -= n
	if n > 0 {
		return n, nil
	}
	return 0, c.opError("read", l.truncated(err))
}

// nextData reads frames until there is payload to read. It keeps its state over timeouts. The caller holds rmu.
func (c *conn) nextData() error {
	l := c.link
	for l.left == 0 {
		if l.ended {
			return c.reckon(io.EOF)
		}
		f, err := l.readFrame()
		if err != nil {
			return c.reckon(err)
		}
		switch {
		case f.frameType == frameData && f.epoch == c.epoch:
			if l.left = f.n; f.n > 0 {
				c.empty = 0
				_ = c.reckon(nil)
			} else if c.empty++; c.empty > maxEmpty {
				l.readErr = errProtocol
			}
		case !l.settle(f):
			l.readErr = errProtocol
		}
		if l.gone {
			c.peerGone.Store(true)
		}
	}
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.closed.Load() {
		return c.opError("set", ErrClosed)
	}
	var ns int64
	if !t.IsZero() {
		ns = t.UnixNano()
	}
	c.readDeadline.Store(ns)
	if l.failure.Load() == nil { // else a reset is under way and has its own
		if err := l.net.SetReadDeadline(t); err != nil || l.failure.Load() == nil {
			return err
		}
		return l.net.SetReadDeadline(past()) // it began meanwhile, and waits for the reader to leave
	}
	return nil
}

func (c *conn) restoreReadDeadline() error {
	if ns := c.readDeadline.Load(); ns != 0 {
		return c.link.net.SetReadDeadline(time.Unix(0, ns))
	}
	return c.link.net.SetReadDeadline(time.Time{})
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	if !c.opened.Load() && !t.IsZero() && !t.After(time.Now()) {
		_ = c.open() // it can't be after this
	}
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed.Load() {
		return c.opError("set", ErrClosed)
	}
	return c.link.net.SetWriteDeadline(t)
}
