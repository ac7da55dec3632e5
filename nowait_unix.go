//go:build unix

package mesh

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// socket is a nowait of the operating system's. One goroutine at a time reads, and one writes.
type socket struct {
	raw     syscall.RawConn
	in, out attempt
}

// attempt is one system call, in a form that need not be allocated again.
type attempt struct {
	call func(fd uintptr) bool
	buf  []byte
	n    int
	err  error
}

func nowaitSocket(c net.Conn) nowait {
	var raw syscall.RawConn
	var err error
	switch c := c.(type) { // not any syscall.Conn: what wraps one may have a Read of its own
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.in.call, s.out.call = s.in.with(syscall.Read), s.out.with(syscall.Write)
	return s
}

// pollable reports whether n is a socket of the system's, to be looked at again and again.
func pollable(n nowait) bool {
	_, ok := n.(*socket)
	return ok
}

func (a *attempt) with(call func(int, []byte) (int, error)) func(uintptr) bool {
	return func(fd uintptr) bool {
		for {
			if a.n, a.err = call(int(fd), a.buf); !errors.Is(a.err, syscall.EINTR) {
				return true
			}
		}
	}
}

func (a *attempt) result(err error) (int, error) {
	a.buf = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(a.err, syscall.EAGAIN):
		return 0, os.ErrDeadlineExceeded
	case a.err != nil:
		return 0, a.err
	}
	return a.n, nil
}

func (s *socket) TryRead(p []byte) (int, error) {
	s.in.buf = p
	n, err := s.in.result(s.raw.Read(s.in.call))
	if n == 0 && err == nil && len(p) > 0 {
		return 0, io.EOF
	}
	return n, err
}

func (s *socket) TryWrite(p []byte) (int, error) {
	s.out.buf = p
	return s.out.result(s.raw.Write(s.out.call))
}
