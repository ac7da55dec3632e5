package mesh

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// conn is a raw connection between two of our own nodes: "mesh/1" frames inside TLS.
//
// Reads and writes may happen at the same time; a Write that times out leaves the connection
// usable and reports how much was taken.
type conn struct {
	tls  *tls.Conn
	net  *netConn
	bufs *buffers

	closed  chan struct{}
	once    sync.Once
	failure atomic.Pointer[DeniedError] // set when this side cuts the connection

	readDeadline atomic.Int64 // Unix nanoseconds, 0 for none

	rmu     sync.Mutex
	header  [frameHeader]byte
	nheader int           // bytes of header read so far
	left    int           // payload of the current data frame not yet read
	control []byte        // payload of a reset frame, as it comes in
	want    int           // length of that payload
	empty   int           // empty data frames in a row
	readErr error         // sticky
	writing chan struct{} // holds one token while a Write runs

	wclosed bool // guarded by the token
}

func newConn(t *tls.Conn, n *netConn, bufs *buffers) *conn {
	n.spillWrites, n.in.pool = true, &bufs.reads
	return &conn{tls: t, net: n, bufs: bufs, closed: make(chan struct{}), writing: make(chan struct{}, 1)}
}

// NetConn returns the connection below TLS, as (*tls.Conn).NetConn does.
func (c *conn) NetConn() net.Conn    { return c.net }
func (c *conn) LocalAddr() net.Addr  { return c.net.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.net.RemoteAddr() }

func (c *conn) opError(op string, err error) error {
	if c.isClosed() {
		err = ErrClosed
	}
	if d := c.failure.Load(); d != nil {
		err = d
	}
	if inner, ok := errors.AsType[*net.OpError](err); ok {
		err = inner.Err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

func (c *conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// Read returns io.EOF only after the peer ended its direction; a connection that was lost before
// gives another error. A refusal or a cut by the peer's rules is a *DeniedError.
func (c *conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.isClosed() || c.failure.Load() != nil {
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
	n, err := c.tls.Read(p[:min(len(p), c.left)])
	if c.failure.Load() != nil {
		return 0, c.opError("read", ErrClosed)
	}
	c.left -= n
	if n > 0 {
		return n, nil
	}
	return 0, c.opError("read", c.truncated(err))
}

// nextData reads frames until there is payload to read. It keeps its state over timeouts.
func (c *conn) nextData() error {
	for c.left == 0 {
		if c.readErr != nil {
			return c.readErr
		}
		if c.want > 0 {
			n, err := c.tls.Read(c.control[len(c.control):c.want])
			c.control = c.control[:len(c.control)+n]
			if len(c.control) == c.want {
				c.readErr = parseReset(c.control)
			} else if n == 0 && err != nil {
				return c.truncated(err)
			}
			continue
		}
		n, err := c.tls.Read(c.header[c.nheader:])
		c.nheader += n
		if c.nheader < frameHeader {
			if n == 0 && err != nil {
				return c.truncated(err)
			}
			continue
		}
		c.nheader = 0
		c.startFrame()
	}
	return nil
}

func (c *conn) startFrame() {
	t, n, err := parseHeader(c.header)
	switch {
	case err != nil:
		c.readErr = err
	case t == frameEnd:
		c.readErr = io.EOF
	case t == frameReset && n == 0:
		c.readErr = parseReset(nil)
	case t == frameReset:
		c.want, c.control = n, make([]byte, 0, n)
	case n == 0:
		if c.empty++; c.empty > maxEmpty {
			c.readErr = errProtocol
		}
	default:
		c.empty, c.left = 0, n
	}
}

// truncated turns an end of the transport without an end of the stream into an error, since it might be an
// attacker's or a crash.
func (c *conn) truncated(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		c.readErr = io.ErrUnexpectedEOF
		return c.readErr
	}
	return err
}

// Close ends both directions. Reads and writes in progress return ErrClosed.
func (c *conn) Close() error {
	err := c.opError("close", ErrClosed)
	c.once.Do(func() {
		close(c.closed)
		if c.failure.Load() != nil {
			err = nil // reset closes it, once the peer has been told
			return
		}
		select {
		case c.writing <- struct{}{}:
			if !c.net.spilling() {
				_ = c.net.SetWriteDeadline(time.Now().Add(resetWait))
				_ = c.sendEnd() // the peer may be gone already
			}
			<-c.writing
		default: // a Write is blocked: break it
		}
		err = c.net.Close()
	})
	return err
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	if c.isClosed() {
		return c.opError("set", ErrClosed)
	}
	var ns int64
	if !t.IsZero() {
		ns = t.UnixNano()
	}
	c.readDeadline.Store(ns)
	if c.failure.Load() == nil { // else a reset is under way and has its own
		if err := c.net.SetReadDeadline(t); err != nil || c.failure.Load() == nil {
			return err
		}
		return c.net.SetReadDeadline(time.Unix(1, 0)) // it began meanwhile, and waits for the reader to leave
	}
	return nil
}

func (c *conn) restoreReadDeadline() error {
	if ns := c.readDeadline.Load(); ns != 0 {
		return c.net.SetReadDeadline(time.Unix(0, ns))
	}
	return c.net.SetReadDeadline(time.Time{})
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.isClosed() {
		return c.opError("set", ErrClosed)
	}
	return c.net.SetWriteDeadline(t)
}
