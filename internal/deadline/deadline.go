// Package deadline makes a deadline something to select on. It works on the virtual clock of
// testing/synctest.
package deadline

import (
	"sync"
	"time"
)

// A Deadline is a point in time that can be moved. The zero value is no deadline.
// It is safe for concurrent use.
type Deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{} // closed when the deadline has passed; nil until somebody waits
}

// Set moves the deadline; the zero Time removes it. A deadline in the past has passed when Set returns.
func (d *Deadline) Set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.done // it fired: its function closes done without taking mu
	}
	d.timer = nil
	if d.done == nil || closed(d.done) {
		d.done = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	if wait := time.Until(t); wait > 0 {
		done := d.done
		d.timer = time.AfterFunc(wait, func() { close(done) })
		return
	}
	close(d.done)
}

// Done is closed once the deadline has passed. A later Set makes a new channel when the old
// one was closed.
func (d *Deadline) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		d.done = make(chan struct{})
	}
	return d.done
}

// Passed reports whether the deadline has passed.
func (d *Deadline) Passed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done != nil && closed(d.done)
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
