package mesh_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"golang.org/x/net/nettest"
)

// pipe returns both ends of a raw connection over loopback.
func (w *world) pipe(client *mesh.Mesh, ln net.Listener) (c, s net.Conn) {
	w.t.Helper()
	accepted := make(chan net.Conn, 1)
	go func() {
		if s, err := ln.Accept(); err == nil {
			accepted <- s
		}
		close(accepted)
	}()
	c, err := client.Dial(w.t.Context(), "tcp", "payments")
	if err != nil {
		w.t.Fatal(err)
	}
	s, ok := <-accepted
	if !ok {
		w.t.Fatal("nothing was accepted")
	}
	w.t.Cleanup(func() { c.Close(); s.Close() })
	return c, s
}

func TestConnBehavesAsNetConn(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	ln := w.listen(payments)
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2 = w.pipe(orders, ln)
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

func TestHalfClose(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	c, s := w.pipe(orders, w.listen(payments))
	if _, err := io.WriteString(c, "question"); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("more")); err == nil {
		t.Error("Write after CloseWrite succeeded")
	}
	got, err := io.ReadAll(s)
	if err != nil || string(got) != "question" {
		t.Fatalf("server read %q, %v", got, err)
	}
	if _, err := io.WriteString(s, "answer"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err = io.ReadAll(c)
	if err != nil || string(got) != "answer" {
		t.Fatalf("client read %q, %v", got, err)
	}
}

func TestAbruptEndIsNotEOF(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	c, s := w.pipe(orders, w.listen(payments))
	if err := s.(interface{ NetConn() net.Conn }).NetConn().Close(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("read after the transport was cut: %v, want an error other than io.EOF", err)
	}
}

func TestClosedConn(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	c, _ := w.pipe(orders, w.listen(payments))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, rerr := c.Read(make([]byte, 1))
	_, werr := c.Write([]byte("x"))
	for _, err := range []error{rerr, werr, c.Close(), c.SetDeadline(time.Time{})} {
		if !errors.Is(err, net.ErrClosed) || !errors.Is(err, mesh.ErrClosed) {
			t.Errorf("on a closed connection: %v, want ErrClosed", err)
		}
	}
}
