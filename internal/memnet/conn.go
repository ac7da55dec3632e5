package memnet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// conn is one end of a connection. It has CloseWrite, as *net.TCPConn does.
type conn struct {
	host          *Host
	in, out       *half
	local, remote *net.TCPAddr
}

func pair(client, server *Host, from, to netip.AddrPort) (c, s *conn) {
	up, down := newHalf(), newHalf()
	a, b := net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(to)
	return &conn{host: client, in: down, out: up, local: a, remote: b},
		&conn{host: server, in: up, out: down, local: b, remote: a}
}

func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

func (c *conn) Read(b []byte) (int, error) { return c.read(b, true) }

// TryRead is Read that never waits: without anything to read it returns os.ErrDeadlineExceeded.
func (c *conn) TryRead(b []byte) (int, error) { return c.read(b, false) }

func (c *conn) read(b []byte, wait bool) (int, error) {
	n, err := c.in.read(b, wait)
	if err != nil && !errors.Is(err, io.EOF) {
		err = c.opError("read", err)
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) { return c.write(b, true) }

// TryWrite is Write that never waits: when not all fits it returns os.ErrDeadlineExceeded.
func (c *conn) TryWrite(b []byte) (int, error) { return c.write(b, false) }

func (c *conn) write(b []byte, wait bool) (int, error) {
	n, err := c.out.write(b, wait)
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

// Close sends what was written, then the end of the stream. As with TCP, if there
// is data that was not read, the peer gets a reset instead of the end.
func (c *conn) Close() error {
	ok, unread := c.in.closeRead()
	if !ok {
		return c.opError("close", net.ErrClosed)
	}
	c.host.remove(c)
	end := io.EOF
	if unread {
		end = syscall.ECONNRESET
	}
	c.out.closeWrite(end)
	return nil
}

// CloseWrite sends the end of the stream. Reading goes on.
func (c *conn) CloseWrite() error {
	if !c.out.shutdown() {
		return c.opError("close", net.ErrClosed)
	}
	return nil
}

// reset ends both directions for both ends at once, and discards what is on the way.
func (c *conn) reset() {
	c.host.remove(c)
	c.in.reset()
	c.out.reset()
}

func (c *conn) freeze(on bool) {
	c.in.freeze(on)
	c.out.freeze(on)
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	if !c.in.setDeadline(&c.in.reader, t) {
		return c.opError("set", net.ErrClosed)
	}
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	if !c.out.setDeadline(&c.out.writer, t) {
		return c.opError("set", net.ErrClosed)
	}
	return nil
}
