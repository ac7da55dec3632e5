package memnet

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how much one direction buffers before Write blocks.
const window = 64 << 10

// half is one direction of a connection. Whoever waits does so on the sync.Cond and holds no
// lock: synctest takes a goroutine that waits for a mutex for a running one.
type half struct {
	mu      sync.Mutex
	changed sync.Cond // signals any change below
	buf     bytes.Buffer
	end     error // what the reader gets after buf; nil while there may be more
	busy    bool  // a Write is under way: two are never interleaved
	frozen  bool  // what is on the way does not arrive
	reader  side
	writer  side
}

// side is one user of a half.
type side struct {
	err     error // of every call from now on
	closed  bool
	expired bool // the deadline has passed
	timer   *time.Timer
}

func (s *side) fail() error {
	if s.err == nil && s.expired {
		return os.ErrDeadlineExceeded
	}
	return s.err
}

func (s *side) stop() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

func newHalf() *half {
	h := new(half)
	h.changed.L = &h.mu
	return h
}

// read waits for something to read, or returns os.ErrDeadlineExceeded at once.
func (h *half) read(b []byte, wait bool) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if err := h.reader.fail(); err != nil {
			return 0, err
		}
		if len(b) == 0 {
			return 0, nil
		}
		switch {
		case h.frozen:
		case h.buf.Len() > 0:
			h.changed.Broadcast()
			return h.buf.Read(b)
		case h.end != nil:
			return 0, h.end
		}
		if !wait {
			return 0, os.ErrDeadlineExceeded
		}
		h.changed.Wait()
	}
}

// write waits until all is written, or writes what fits at once and returns os.ErrDeadlineExceeded when that is less.
func (h *half) write(b []byte, wait bool) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.busy {
		if err := h.writer.fail(); err != nil {
			return 0, err
		}
		if !wait {
			return 0, os.ErrDeadlineExceeded
		}
		h.changed.Wait()
	}
	h.busy = true
	defer func() {
		h.busy = false
		h.changed.Broadcast()
	}()
	for {
		if err := h.writer.fail(); err != nil {
			return n, err
		}
		if k := min(len(b)-n, window-h.buf.Len()); k > 0 {
			h.buf.Write(b[n : n+k])
			n += k
			h.changed.Broadcast()
		}
		if n == len(b) {
			return n, nil
		}
		if !wait {
			return n, os.ErrDeadlineExceeded
		}
		h.changed.Wait()
	}
}

// closeRead drops what was not read, and says whether there was any. It returns false when
// it was called before.
func (h *half) closeRead() (ok, unread bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reader.closed {
		return false, false
	}
	unread = h.buf.Len() > 0
	h.buf = bytes.Buffer{}
	h.reader.closed, h.reader.err = true, net.ErrClosed
	h.reader.stop()
	if h.writer.err == nil {
		h.writer.err = syscall.EPIPE
	}
	h.changed.Broadcast()
	return true, unread
}

// shutdown ends the stream for the reader. It returns false after closeWrite.
func (h *half) shutdown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.writer.closed {
		return false
	}
	if h.writer.err == nil {
		h.writer.err = syscall.EPIPE
	}
	h.finish(io.EOF)
	return true
}

// closeWrite ends the stream with end, unless it has ended before.
func (h *half) closeWrite(end error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writer.closed, h.writer.err = true, net.ErrClosed
	h.writer.stop()
	h.finish(end)
}

func (h *half) finish(end error) {
	if h.end == nil {
		h.end = end
	}
	h.changed.Broadcast()
}

// reset makes both sides fail from now on.
func (h *half) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf = bytes.Buffer{}
	for _, s := range []*side{&h.reader, &h.writer} {
		if s.err == nil {
			s.err = syscall.ECONNRESET
		}
	}
	h.changed.Broadcast()
}

func (h *half) freeze(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = on
	h.changed.Broadcast()
}

// setDeadline is for one of h's sides. It returns false when that is closed.
func (h *half) setDeadline(s *side, t time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.closed {
		return false
	}
	s.stop()
	s.expired = !t.IsZero() && !t.After(time.Now())
	if !t.IsZero() && !s.expired {
		var timer *time.Timer
		timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			if s.timer == timer {
				s.expired = true
				h.changed.Broadcast()
			}
		})
		s.timer = timer
	}
	h.changed.Broadcast()
	return true
}
