// Package outbox sends together what is written one after the other.
package outbox

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// most is what is held back at most; Write waits for room then.
	most = 64 << 10
	// large is what is not worth copying.
	large = 16 << 10
	// keep is the most that an idle connection has as a buffer.
	keep = 4 << 10
)

// A Conn is a connection whose Write, from [Conn.Collect] on, leaves it to a goroutine to send, which lets whoever is ready to run write more
// before: all of it goes out by one system call. Writes come one at a time, as those of a *tls.Conn do; all else may come at any time.
//
// What fails is told by a later Write. With a write deadline set, Write returns when everything is sent: a goodbye has been said when the
// connection is closed. Close drops what is not sent.
type Conn struct {
	net.Conn

	collects atomic.Bool

	mu     sync.Mutex
	change sync.Cond // of what follows
	held   []byte
	spare  []byte // a buffer to hold more in; nil when there is none
	busy   bool   // send is running
	timed  bool   // there is a write deadline
	closed bool
	err    error // sticky
	wg     sync.WaitGroup
}

// New wraps c, which nobody else uses any more.
func New(c net.Conn) *Conn {
	o := &Conn{Conn: c}
	o.change.L = &o.mu
	return o
}

// Collect begins to hold writes back.
func (c *Conn) Collect() { c.collects.Store(true) }

// Under returns the connection below, for somebody who reads it without waiting.
func (c *Conn) Under() net.Conn { return c.Conn }

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if !c.collects.Load() {
		return c.Conn.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.busy && len(c.held)+len(p) > most {
		c.change.Wait()
	}
	switch {
	case c.err != nil:
		return 0, c.err
	case c.closed:
		return 0, net.ErrClosed
	case !c.busy && (c.timed || len(p) >= large):
		c.mu.Unlock()
		defer c.mu.Lock()
		return c.Conn.Write(p) // nobody else writes
	}
	c.held = append(c.held, p...)
	if !c.busy {
		c.busy = true
		c.wg.Go(c.send)
	}
	for c.timed && c.busy {
		c.change.Wait()
	}
	if c.err != nil {
		return 0, c.err
	}
	return len(p), nil
}

func (c *Conn) send() {
	runtime.Gosched()
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.held) > 0 && c.err == nil {
		b := c.held
		c.held, c.spare = c.spare, nil
		c.change.Broadcast() // there is room
		c.mu.Unlock()
		_, err := c.Conn.Write(b)
		c.mu.Lock()
		c.err = err
		if cap(b) <= keep {
			c.spare = b[:0]
		}
	}
	c.busy = false
	c.change.Broadcast()
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.setTimed(t)
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline implements net.Conn. It bounds also what was written before and is not sent yet.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.setTimed(t)
	return c.Conn.SetWriteDeadline(t)
}

func (c *Conn) setTimed(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timed = !t.IsZero()
}

// Close implements net.Conn. It waits for the goroutine that sends.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
	return err
}
