package mesh_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"github.com/intramesh/mesh"
	"golang.org/x/net/nettest"
)

// tcpOnly is TCP, and tells what was accepted.
type tcpOnly struct {
	tcpAlone

	accepted chan *net.TCPConn
}

type tellingListener struct {
	net.Listener

	accepted chan *net.TCPConn
}

func (l tellingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok {
		l.accepted <- t
	}
	return c, err
}

func (n *tcpOnly) Listen(ctx context.Context, network, addr string) (net.Listener, error) {
	ln, err := n.ListenConfig.Listen(ctx, network, addr)
	return tellingListener{ln, n.accepted}, err
}

// talk has c and s tell each other a word so many times; by then they poll, if the machine has the time.
func talk(t *testing.T, c, s net.Conn, turns int) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyN(s, s, int64(turns))
		done <- err
	}()
	var b [1]byte
	for range turns {
		if _, err := c.Write(b[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

const manyTurns = 200

// TestBusyConnBehavesAsNetConn is TestConnBehavesAsNetConn for connections whose ends poll, over TCP and, where there are any, Unix sockets.
func TestBusyConnBehavesAsNetConn(t *testing.T) {
	for name, network := range map[string]mesh.Network{"TCP": new(tcpAlone), "the system's": nil} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, rule{from: "orders", to: "payments"})
			on := func(c *mesh.Config) { c.Network = network }
			payments, orders := w.join("payments", on), w.join("orders", on)
			ln := w.listen(payments)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				c1, c2 = w.pipe(orders, ln)
				talk(t, c1, c2, manyTurns)
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

// TestResetOfBusyConn has connections reset while one end waits for an answer. The system says so once.
func TestResetOfBusyConn(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	network := &tcpOnly{accepted: make(chan *net.TCPConn, 1)}
	on := func(c *mesh.Config) { c.Network = network }
	payments, orders := w.join("payments", on), w.join("orders", on)
	ln := w.listen(payments)
	for range 20 {
		c, s := w.pipe(orders, ln)
		socket := <-network.accepted
		talk(t, c, s, manyTurns)
		go func() {
			_, _ = s.Read(make([]byte, 1))
			_ = socket.SetLinger(0)
			_ = socket.Close()
		}()
		if _, err := c.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("after a reset Read returned %v", err)
		}
	}
}

// TestNoBusyPoll counts the system calls: each end looks once, sleeps, and looks again.
func TestNoBusyPoll(t *testing.T) {
	reads := func() int {
		b, err := os.ReadFile("/proc/self/io")
		if err != nil {
			t.Skip(err)
		}
		n, err := strconv.Atoi(regexp.MustCompile(`syscr: (\d+)`).FindStringSubmatch(string(b))[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, off := range []bool{false, true} {
		w := newWorld(t, rule{from: "orders", to: "payments"})
		on := func(c *mesh.Config) { c.NoBusyPoll = off }
		payments, orders := w.join("payments", on), w.join("orders", on)
		c, s := w.pipe(orders, w.listen(payments))
		const turns = 5000
		before := reads()
		talk(t, c, s, turns)
		each := float64(reads()-before) / turns
		t.Logf("NoBusyPoll %v: %.1f reads a turn", off, each)
		if off && each > 4.1 {
			t.Errorf("%.1f reads a turn", each)
		}
	}
}
