package mesh

import (
	"errors"
	"math"
	"os"
	"time"
)

const (
	// lookTime is when the lookout reads for an application that does not, first, and maxLookTime when at the latest it does so again.
	lookTime    = 2 * time.Millisecond
	maxLookTime = time.Second
)

// A lookout reads for applications that don't: first a moment after they have written, and then ever more rarely, so that a stream is held
// up for about as long as the application has been busy with the last one already. Whoever has set the link's watched has it.
type lookout struct {
	timer *time.Timer
	wait  time.Duration
}

// watch has the lookout look after a server's brief stream.
func (c *conn) watch() {
	l := c.link
	if !c.brief || !l.accepted() || c.detached.Load() || l.watched.Load() || l.watched.Swap(true) {
		return
	}
	l.lookAgain(lookTime)
}

func (l *link) lookAgain(wait time.Duration) {
	if l.lookout == nil {
		l.lookout = &lookout{timer: time.AfterFunc(math.MaxInt64, func() { l.mesh.attend(l.look) })}
	}
	l.lookout.wait = wait
	l.lookout.timer.Reset(wait)
}

func (l *link) look() {
	wait := min(2*l.lookout.wait, maxLookTime)
	l.watched.Store(false)
	if c := l.active(); c != nil && c.brief && c.look() && !l.watched.Swap(true) {
		l.lookAgain(wait)
	}
}

// look reads what has come for an application that does not read. It reports whether there is nothing more for now.
func (c *conn) look() bool {
	l := c.link
	if !c.rmu.TryLock() {
		return false // it does
	}
	defer c.rmu.Unlock()
	if c.detached.Load() || c.broken() {
		return false
	}
	if c.readDeadline.Load() != 0 {
		l.mu.Lock()
		if l.failure.Load() == nil {
			_ = l.net.SetReadDeadline(time.Time{}) // when it has passed, nothing can be read
		}
		l.mu.Unlock()
		defer c.restoreReadDeadline()
	}
	for !c.detached.Load() && !l.gone && (l.left == 0 || c.tail == nil || len(*c.tail) < cap(*c.tail)) {
		if err := c.ahead(); err != nil {
			return errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
	return false
}

// ahead reads a frame, or payload, if it is there.
func (c *conn) ahead() error {
	l := c.link
	if l.left == 0 {
		l.net.tryRead = true
		f, err := l.readFrame()
		l.net.tryRead = false
		if err == nil {
			c.handle(f) // from here on the link may be the next stream's
		}
		return err
	}
	tail := make([]byte, 0, maxTail)
	if c.tail != nil {
		tail = *c.tail
	}
	l.net.tryRead = true
	n, err := l.readPayload(tail[len(tail):cap(tail)])
	l.net.tryRead = false
	if err != nil {
		return err
	}
	tail = tail[:len(tail)+n]
	c.tail = &tail
	return nil
}
