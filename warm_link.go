package mesh

import (
	"context"
	"errors"
	"os"
	"time"
)

// What a client asks of a link between two streams. Nobody else uses it then.

// lookIdle reads all that the server has sent since the stream was closed, without waiting. Ready is a link for the next one.
func (l *link) lookIdle() (alive, ready bool) {
	l.net.tryRead = true
	l.net.tryWrites.Add(1)
	defer func() { l.net.tryRead, _ = false, l.net.tryWrites.Add(-1) }()
	for {
		if alive, more := l.readIdle(); !more {
			alive = alive && !l.bye.Load()
			return alive, alive && (l.gone || l.owed)
		}
	}
}

// readIdle reads one frame. Alive is false when the link is of no more use; more is false after an error, a timeout included.
func (l *link) readIdle() (alive, more bool) {
	f, err := l.readFrame()
	if err != nil {
		return errors.Is(err, os.ErrDeadlineExceeded), false
	}
	ok := l.settle(f)
	return ok, ok
}

// awaitClosed waits until the server has closed the stream.
func (l *link) awaitClosed(ctx context.Context, until time.Time) bool {
	return l.within(ctx, until, func() bool {
		for !l.gone {
			if _, more := l.readIdle(); !more {
				return false
			}
		}
		return !l.bye.Load()
	})
}

// probe asks the server whether it is there.
func (l *link) probe(ctx context.Context) bool {
	return l.within(ctx, time.Now().Add(probeTime), func() bool {
		if !l.sayIdle(framePing, l.epoch) {
			return false
		}
		for {
			f, err := l.readFrame()
			switch {
			case err != nil, !l.bye.Load() && f.frameType != framePing && !l.settle(f):
				return false
			case f.frameType == framePing:
				return f.epoch == l.epoch && !l.bye.Load()
			}
		}
	})
}

// within calls read with a deadline. When ctx ends the link is closed.
func (l *link) within(ctx context.Context, until time.Time, read func() bool) bool {
	l.net.tryWrites.Add(1)
	defer l.net.tryWrites.Add(-1)
	stop := context.AfterFunc(ctx, func() { _ = l.net.Close() })
	ok := l.net.SetReadDeadline(until) == nil && read()
	return l.net.SetReadDeadline(time.Time{}) == nil && stop() && ok
}
