package mesh

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/internal/busypoll"
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
	spillWrites bool

	// While tryRead is set, Read does not wait, and while tryWrites is above 0, what Write can't send at once is spilled. Whoever sets
	// them is the only reader, or writer. Who reads between two streams does both: TLS answers key updates, for which the peer may leave
	// no room.
	tryRead   bool
	closed    bool // guarded by mu
	tryWrites atomic.Int32
	// behind is false as long as nothing is spilled and no write deadline was set: the usual case, known without a lock.
	behind atomic.Bool
	// shared is set once net/http serves HTTP/2 on it: many handlers at once have something to send. See giveWay.
	shared atomic.Bool

	mu      sync.Mutex
	tries   nowait    // see try; guarded by mu until it is set
	late    *lateness // nil until it is needed; guarded by mu
	onClose []func()

	out cork

	// wrote is set by a Write, and cleared when something comes: whoever reads meanwhile may be waiting for an answer.
	wrote  atomic.Bool
	waiter busypoll.Waiter // the reader's
}

// lateness is what a netConn needs to write in time, or to have not.
type lateness struct {
	deadline deadline.Deadline
	wg       sync.WaitGroup

	// The rest is guarded by the connection's mutex.
	spill chan struct{} // closed when the rest has been written; nil when there is none
	err   error         // of that
	asked time.Time     // the write deadline last asked for
}

func newNetConn(c net.Conn) *netConn {
	return &netConn{Conn: c, local: uniqueAddr(c.LocalAddr())}
}

// try returns what reads and writes without waiting, nil where that can't be done. An idle connection that has carried one stream
// has none.
func (c *netConn) try() nowait {
	c.mu.Lock()
	n := c.tries
	if n == nil {
		n = nowaitOf(c.Conn)
		c.tries = n
	}
	c.mu.Unlock()
	return n
}

// lag returns lateness. The caller holds mu.
func (c *netConn) lag() *lateness {
	if c.late == nil {
		c.late = new(lateness)
	}
	return c.late
}

// writeDeadline is closed once the write deadline has passed, or the connection is closed.
func (c *netConn) writeDeadline() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	late := c.lag()
	if c.closed {
		late.deadline.Set(past())
	}
	return late.deadline.Done()
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
	first, late := !c.closed, c.late
	c.closed = true
	c.mu.Unlock()
	if !first {
		return net.ErrClosed
	}
	err := c.Conn.Close()
	if late != nil {
		late.deadline.Set(past()) // whoever waits for the token need not get it any more
		late.wg.Wait()
	}
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
	late := c.lag()
	late.deadline.Set(t)
	late.asked = t
	if late.spill != nil {
		return nil // set when the rest has been written
	}
	return c.Conn.SetWriteDeadline(t)
}

func (c *netConn) Read(p []byte) (int, error) {
	if c.tryRead {
		return c.tries.TryRead(p)
	}
	if !c.waiter.Active() || !c.wrote.Load() {
		return c.Conn.Read(p)
	}
	n, err := c.poll(p)
	if n == 0 && err == nil {
		n, err = c.Conn.Read(p)
	}
	if n > 0 {
		c.wrote.Store(false)
		c.waiter.Turn()
	}
	return n, err
}

// Before a shared connection is written less than giveWay bytes, handlers that are ready to run do: what they have to send then goes out
// together, by one system call. Without it net/http, which writes as soon as it has something, makes one for each.
const giveWay = 16 << 10

func (c *netConn) Write(p []byte) (int, error) {
	if !c.wrote.Load() {
		c.wrote.Store(true)
	}
	if !c.spillWrites {
		if c.tryWrites.Load() > 0 {
			n, err := c.tries.TryWrite(p)
			if err == nil && n < len(p) {
				err = io.ErrShortWrite
			}
			return n, err
		}
		if len(p) < giveWay && c.shared.Load() {
			runtime.Gosched()
		}
		return c.Conn.Write(p)
	}
	if c.out.take(p) {
		return len(p), c.flush(maxCork)
	}
	return len(p), c.send(p)
}

// send writes all of p, or starts a spill with the rest.
func (c *netConn) send(p []byte) error {
	now := c.tryWrites.Load() > 0
	if now && c.spilling() {
		return os.ErrDeadlineExceeded
	}
	if err := c.waitSpill(); err != nil {
		return err
	}
	var n int
	var err error
	if now {
		n, err = c.try().TryWrite(p)
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
	late := c.late
	spill, err := late.spill, late.err
	c.mu.Unlock()
	if spill == nil || err != nil {
		return err
	}
	select {
	case <-spill:
		c.mu.Lock()
		defer c.mu.Unlock()
		return late.err
	case <-c.writeDeadline():
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
	done, late := make(chan struct{}), c.lag()
	late.spill = done
	c.behind.Store(true)
	late.wg.Go(func() {
		_, err := c.Conn.Write(rest)
		c.mu.Lock()
		defer c.mu.Unlock()
		late.spill, late.err = nil, err
		if err == nil {
			late.err = c.Conn.SetWriteDeadline(late.asked)
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
	if c.late.spill != nil || c.late.err != nil {
		return false
	}
	c.behind.Store(false)
	return true
}

// writeTimedOut reports whether the write deadline has passed.
func (c *netConn) writeTimedOut() bool {
	if !c.behind.Load() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late.deadline.Passed() && !c.closed
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
	return c.late.spill != nil
}
