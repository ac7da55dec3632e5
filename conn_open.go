package mesh

import (
	"math"
	"time"
)

// openWait is how long a stream that says nothing stays unknown to the server. What opens it otherwise is its first
// bytes, or the first Read.
const openWait = 5 * time.Millisecond

// open tells the server of the stream, if it does not know.
func (c *conn) open() error {
	if err := c.lockWrite(); err != nil {
		return err
	}
	defer func() { <-c.link.writing }()
	return c.openLocked()
}

// openLocked is open for who holds the token.
func (c *conn) openLocked() error {
	if c.opened.Load() {
		return nil
	}
	if err := c.link.say(frameOpen, c.epoch); err != nil {
		return err
	}
	c.isOpen()
	return nil
}

func (c *conn) isOpen() {
	c.opened.Store(true)
	c.link.lazy.Stop()
}

// openSoon opens the present stream in a moment.
func (l *link) openSoon() {
	if l.lazy == nil {
		l.lazy = time.AfterFunc(math.MaxInt64, func() {
			l.mesh.spawn(func() {
				if c := l.active(); c != nil {
					_ = c.open() // whoever uses the connection finds out
				}
			})
		})
	}
	l.lazy.Reset(openWait)
}
