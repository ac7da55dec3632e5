package mesh

import "net"

// A nowait reads and writes what it can at once, and returns os.ErrDeadlineExceeded when that is nothing.
type nowait interface {
	TryRead(p []byte) (int, error)
	TryWrite(p []byte) (int, error)
}

// nowaitOf returns the nowait of a connection, nil when it has none: a wrapper of unknown ways, or an operating system
// without.
func nowaitOf(c net.Conn) nowait {
	if o, ok := c.(interface{ Under() net.Conn }); ok { // an outbox
		c = o.Under()
	}
	if t, ok := c.(nowait); ok {
		return t
	}
	return nowaitSocket(c)
}
