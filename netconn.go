package mesh

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/internal/deadline"
)

// netConn is the connection that TLS runs on. Whatever must be known or done about a
// connection is kept here, below TLS, since net/http and gRPC need to be given the bare
// *tls.Conn above it.
type netConn struct {
	net.Conn

	// local is unique to this connection: net/http hands it to every request
	// (http.LocalAddrContextKey), and the mesh finds the connection by the pointer.
	local net.Addr
	// remote is what TCP would show, on a Unix socket; else nil.
	remote net.Addr
	// peer is set once, after the handshake and before anybody else sees the connection.
	peer Peer
	// refused is told what the peer of a raw connection says when it refuses or cuts it; nil when nobody wants to know.
	refused func(*DeniedError)

	// A write that times out would leave TLS with half a record sent and is fatal to a *tls.Conn
	// (golang/go#46977). Under our own framing the rest of the record is instead sent in the background
	// and the caller told that time is up: spill is set then.
	spillWrites   bool
	writeDeadline deadline.Deadline
	// behind is false as long as nothing is spilled and no write deadline was set: the usual case, known without a lock.
	behind atomic.Bool

	in  readAhead
	out cork

	// try is nil where reads and writes can't be made without waiting. While tryRead is set, Read does not wait, and
	// while tryWrite is, what Write can't send at once is spilled. Whoever sets them is the only reader, or writer.
	try               nowait
	tryRead, tryWrite bool

	mu        sync.Mutex
	spill     chan struct{} // closed when the rest has been written; nil when there is none
	spillErr  error
	deadlined time.Time // the write deadline last asked for
	closed    bool
	onClose   []func()
	wg        sync.WaitGroup
}

func newNetConn(c net.Conn) *netConn {
	return &netConn{Conn: c, local: uniqueAddr(c.LocalAddr())}
}

// uniqueAddr copies an address so that its pointer identifies one connection.
func uniqueAddr(a net.Addr) net.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		dup := *t
		return &dup
	}
	return &struct{ net.Addr }{a}
}

func (c *netConn) LocalAddr() net.Addr { return c.local }

func (c *netConn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.Conn.RemoteAddr()
}

// CloseWrite sends a FIN where the network has one.
func (c *netConn) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close closes the connection under TLS: nothing more is sent. It waits for the rest of a timed-out write to give up.
func (c *netConn) Close() error {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if !first {
		return net.ErrClosed
	}
	err := c.Conn.Close()
	c.writeDeadline.Set(past()) // whoever waits for the token need not get it any more
	c.wg.Wait()
	c.mu.Lock()
	hooks := c.onClose
	c.onClose = nil
	c.mu.Unlock()
	for _, f := range hooks {
		f()
	}
	return err
}

// afterClose arranges for f to run once the connection is closed; at once when it is already.
func (c *netConn) afterClose(f func()) {
	c.mu.Lock()
	if !c.closed {
		c.onClose = append(c.onClose, f)
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	f()
}

func (c *netConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *netConn) SetWriteDeadline(t time.Time) error {
	if !c.spillWrites {
		return c.Conn.SetWriteDeadline(t)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.behind.Store(true)
	c.writeDeadline.Set(t)
	c.deadlined = t
	if c.spill != nil {
		return nil // set when the rest has been written
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *netConn) Write(p []byte) (int, error) {
	if !c.spillWrites {
		return c.Conn.Write(p)
	}
	if c.out.take(p) {
		return len(p), c.flush(maxCork)
	}
	return len(p), c.send(p)
}

// send writes all of p, or starts a spill with the rest.
func (c *netConn) send(p []byte) error {
	if err := c.waitSpill(); err != nil {
		return err
	}
	var n int
	var err error
	if c.tryWrite {
		n, err = c.try.TryWrite(p)
	} else {
		n, err = c.Conn.Write(p)
	}
	if n == len(p) || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return c.startSpill(p[n:])
}

// waitSpill returns once nothing is left of an earlier write, or with an error when it failed or when
// the deadline passes first.
func (c *netConn) waitSpill() error {
	if !c.behind.Load() {
		return nil
	}
	c.mu.Lock()
	spill, err := c.spill, c.spillErr
	c.mu.Unlock()
	if spill == nil || err != nil {
		return err
	}
	select {
	case <-spill:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.spillErr
	case <-c.writeDeadline.Done():
		return os.ErrDeadlineExceeded
	}
}

// startSpill writes rest in the background, without a deadline.
func (c *netConn) startSpill(rest []byte) error {
	rest = append([]byte(nil), rest...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if err := c.Conn.SetWriteDeadline(time.Time{}); err != nil {
		return err
	}
	done := make(chan struct{})
	c.spill = done
	c.behind.Store(true)
	c.wg.Go(func() {
		_, err := c.Conn.Write(rest)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spill, c.spillErr = nil, err
		if err == nil {
			c.spillErr = c.Conn.SetWriteDeadline(c.deadlined)
		}
		close(done)
	})
	return nil
}

// clearWriteDeadline removes the write deadline, and reports whether nothing is spilled: the connection is then as new.
func (c *netConn) clearWriteDeadline() bool {
	if !c.behind.Load() {
		return true
	}
	if c.SetWriteDeadline(time.Time{}) != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spill != nil || c.spillErr != nil {
		return false
	}
	c.behind.Store(false)
	return true
}

// writeTimedOut reports whether the write deadline has passed.
func (c *netConn) writeTimedOut() bool {
	return c.behind.Load() && c.writeDeadline.Passed() && !c.isClosed()
}

func (c *netConn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// spilling reports whether the rest of an earlier write is still on its way.
func (c *netConn) spilling() bool {
	if !c.behind.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spill != nil
}
