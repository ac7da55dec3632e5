package mesh

import (
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
)

const (
	// giveWayAt and giveWayEvery are the looks after which a reader that polls lets run what is ready to: soon, since it may have readied it
	// itself, and seldom, since it wakes another thread to look for more.
	giveWayAt    = 4
	giveWayEvery = 16
	// maxTries bounds them where the clock stands still.
	maxTries = 1 << 10
)

// poll reads what comes soon, see package busypoll. It returns 0, nil when nothing did, or if the Read that waits has the same to say.
func (c *netConn) poll(p []byte) (int, error) {
	limit := c.waiter.Limit()
	if limit == 0 {
		return 0, nil
	}
	socket := c.try()
	if !pollable(socket) {
		c.waiter.Stop()
		return 0, nil
	}
	var start time.Time
	for i := range maxTries {
		n, err := socket.TryRead(p)
		if n > 0 {
			if i > 0 {
				c.waiter.Waited(time.Since(start))
			}
			return n, nil
		}
		if err != os.ErrDeadlineExceeded { //nolint:errorlint // as it is when there was nothing; wrapped, a deadline has passed
			if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // the socket says it only once; all else it says again
				return 0, &net.OpError{Op: "read", Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", errno)}
			}
			return 0, nil
		}
		if i == 0 {
			start = time.Now()
		} else if i%8 == 0 && time.Since(start) >= limit {
			break
		}
		if i%giveWayEvery == giveWayAt {
			runtime.Gosched()
		}
	}
	c.waiter.Waited(limit)
	return 0, nil
}
