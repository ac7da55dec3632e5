package mesh

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// conn is a raw connection as the application has it: one stream of a link. A server's has no part in that any more once it is
// detached, see brief.go.
//
// Reads and writes may happen at the same time; a Write that times out leaves the connection
// usable and reports how much was taken.
type conn struct {
	link  *link
	epoch byte

	brief   bool // see brief.go
	counted bool
	wclosed bool         // guarded by the token
	verdict atomic.Int32 // what balancing is told, see reckon

	closed atomic.Bool // changes with link.mu held
	// opened is set once the peer has been told of the stream. It changes with the token held.
	opened       atomic.Bool
	peerGone     atomic.Bool  // the peer has closed the stream
	detached     atomic.Bool  // the client has begun the next stream; changes with link.mu and rmu held
	readDeadline atomic.Int64 // Unix nanoseconds, 0 for none

	rmu   sync.Mutex // held by whoever reads
	empty int        // empty data frames in a row
	tail  *[]byte    // what was read ahead, of a brief stream; nil for nothing

	tally   *tally  // nil on a server
	release *picked // who is told when it is closed, if counted; nil on a server
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
	c.rmu.Lock()
	n, err := c.read(p)
	c.rmu.Unlock()
	if err != nil {
		c.watch()
	}
	return n, err
}

// read is Read for who holds rmu.
func (c *conn) read(p []byte) (int, error) {
	l := c.link
	if c.broken() {
		return 0, c.opError("read", ErrClosed)
	}
	if d := c.readDeadline.Load(); d != 0 && time.Now().UnixNano() >= d {
		return 0, c.opError("read", os.ErrDeadlineExceeded)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.tail != nil {
		n := copy(p, *c.tail)
		if *c.tail = (*c.tail)[n:]; len(*c.tail) == 0 {
			c.tail = nil
		}
		return n, nil
	}
	if err := c.nextData(); err != nil {
		if err == io.EOF && (c.detached.Load() || !c.broken()) { //nolint:errorlint // our own sentinel, as io.Reader wants it
			return 0, io.EOF
		}
		return 0, c.opError("read", err)
	}
	n, err := l.readPayload(p)
	if c.broken() {
		return 0, c.opError("read", ErrClosed)
	}
	if err != nil {
		return 0, c.opError("read", err)
	}
	return n, nil
}

// nextData reads frames until there is payload to read. It keeps its state over timeouts. The caller holds rmu.
func (c *conn) nextData() error {
	l := c.link
	for !c.detached.Load() && l.left == 0 {
		if l.ended {
			return c.reckon(io.EOF)
		}
		f, err := l.readFrame()
		if err != nil {
			return c.reckon(err)
		}
		c.handle(f)
	}
	if c.detached.Load() {
		return io.EOF
	}
	return nil
}

// handle takes a frame of which the header has been read. The caller holds rmu.
func (c *conn) handle(f frame) {
	l := c.link
	switch {
	case f.frameType == frameData && f.epoch == c.epoch && !l.ended:
		if c.tally != nil {
			c.tally.count(f.n + int(l.lead))
		}
		if l.left = f.n; f.n > 0 {
			c.empty = 0
			_ = c.reckon(nil)
		} else if c.empty++; c.empty > maxEmpty {
			l.readErr = errProtocol
		}
	case l.opens(f) && l.brief:
		c.detach(f)
		return // the link is another's
	case !l.settle(f):
		l.readErr = errProtocol
	}
	if l.gone {
		c.peerGone.Store(true)
	}
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
	if c.detached.Load() {
		return nil
	}
	if l.failure.Load() == nil { // else a reset is under way and has its own
		if err := l.net.SetReadDeadline(t); err != nil || l.failure.Load() == nil {
			return err
		}
		return l.net.SetReadDeadline(past()) // it began meanwhile, and waits for the reader to leave
	}
	return nil
}

// restoreReadDeadline sets the link's deadline to the stream's. The caller holds rmu.
func (c *conn) restoreReadDeadline() {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	var t time.Time
	if ns := c.readDeadline.Load(); ns != 0 {
		t = time.Unix(0, ns)
	}
	if !c.detached.Load() && !c.broken() {
		_ = c.link.net.SetReadDeadline(t)
	}
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
	if c.detached.Load() {
		return nil
	}
	return c.link.net.SetWriteDeadline(t)
}
