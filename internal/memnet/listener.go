package memnet

import (
	"context"
	"net"
	"net/netip"
	"sync"
)

// backlog is how many connections wait for Accept before dialers block.
const backlog = 128

type listener struct {
	host  *Host
	addr  netip.AddrPort
	queue chan *conn
	done  chan struct{}
	once  sync.Once
}

func newListener(h *Host, addr netip.AddrPort) *listener {
	return &listener{host: h, addr: addr, queue: make(chan *conn, backlog), done: make(chan struct{})}
}

// push hands a connection to Accept.
func (l *listener) push(ctx context.Context, c *conn) error {
	select {
	case l.queue <- c:
	case <-l.done:
		c.reset()
		return refused()
	case <-ctx.Done():
		c.reset()
		return ctx.Err()
	}
	select {
	case <-l.done:
		// Close may have emptied the queue before c was in it.
		c.reset()
		l.drain()
		return refused()
	default:
		return nil
	}
}

// drain resets what nobody accepted.
func (l *listener) drain() {
	for {
		select {
		case c := <-l.queue:
			c.reset()
		default:
			return
		}
	}
}

func (l *listener) closed(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, l.closed("accept")
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, l.closed("accept")
	}
}

func (l *listener) Close() error {
	err := l.closed("close")
	l.once.Do(func() {
		l.host.net.mu.Lock()
		delete(l.host.net.listeners, l.addr)
		l.host.net.mu.Unlock()
		close(l.done)
		l.drain()
		err = nil
	})
	return err
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }
