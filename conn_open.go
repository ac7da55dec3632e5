package mesh

import (
	"sync"
	"time"
)

// openWait is about how long a stream that says nothing stays unknown to the server, at most. What opens it otherwise is its
// first bytes, or the first Read. As long may the end of a brief one.
const openWait = time.Millisecond

// openers opens streams that say nothing, and ends brief ones that none has followed. One timer serves all of them: it costs more
// than all the rest of a dial.
type openers struct {
	mu    sync.Mutex
	links []*link // what has begun or ended since the timer was set
	spare []*link
	timer *time.Timer
	armed bool
}

// soon opens the link's present stream in a moment, or tells the server that it is over.
func (o *openers) soon(l *link) {
	if l.listed.Load() || l.listed.Swap(true) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.links = append(o.links, l)
	switch {
	case o.armed:
		return
	case o.timer == nil:
		o.timer = time.AfterFunc(openWait, func() { l.mesh.attend(o.open) })
	default:
		o.timer.Reset(openWait)
	}
	o.armed = true
}

func (o *openers) open() {
	o.mu.Lock()
	links := o.links
	o.links, o.spare, o.armed = o.spare[:0], nil, false
	o.mu.Unlock()
	for _, l := range links {
		l.listed.Store(false)
		switch c := l.active(); {
		case c == nil:
			if !l.home.(*warmSet).pay(l) {
				o.soon(l)
			}
		case !c.opened.Load():
			c.openIfQuiet()
		}
	}
	clear(links)
	o.mu.Lock()
	o.spare = links
	o.mu.Unlock()
}

// openIfQuiet opens the stream unless somebody is at it.
func (c *conn) openIfQuiet() {
	select {
	case c.link.writing <- struct{}{}:
		defer func() { <-c.link.writing }()
		if !c.broken() {
			_ = c.openLocked() // whoever uses the connection finds out
		}
	default:
	}
}

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
	if err := c.link.say(c.opening(), c.epoch); err != nil {
		return err
	}
	c.opened.Store(true)
	return nil
}

// opening is the frame that opens the stream.
func (c *conn) opening() frameType {
	if c.brief {
		return frameBrief
	}
	return frameOpen
}
