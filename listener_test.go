package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/intramesh/mesh"
)

// echo serves raw connections until the listener is closed.
func (w *world) echo(ln net.Listener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	w.t.Cleanup(func() { ln.Close(); <-done })
}

func ping(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "ping"); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != "ping" {
		return fmt.Errorf("echoed %q", b)
	}
	return nil
}

func TestDialAndPeers(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	c, s := w.pipe(orders, w.listen(payments))
	for _, x := range []struct {
		conn net.Conn
		want string
	}{{c, "spiffe://prod.example/payments"}, {s, "spiffe://prod.example/orders"}} {
		p, ok := mesh.PeerFromConn(x.conn)
		if !ok || p.ID.String() != x.want || p.Expiry.Before(time.Now()) || !p.Addr.IsValid() {
			t.Errorf("PeerFromConn = %+v, %v; want %s", p, ok, x.want)
		}
	}
	if p, ok := mesh.PeerFromConn(&net.TCPConn{}); ok {
		t.Errorf("PeerFromConn of a foreign connection = %v", p)
	}
}

func TestNamedPorts(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	w.echo(w.listen(payments))
	admin := w.listen(payments, mesh.ListenOptions{Port: "admin"})
	w.echo(admin)
	c, err := orders.Dial(t.Context(), "tcp", "payments:admin")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(c); err != nil {
		t.Fatal(err)
	}
	if p, _ := mesh.PeerFromConn(c); p.Addr != addrOf(admin) {
		t.Errorf("payments:admin is at %v, want %v", p.Addr, addrOf(admin))
	}
	if _, err := payments.Listen(t.Context(), "tcp", "127.0.0.1:0", mesh.ListenOptions{Port: "admin"}); err == nil {
		t.Error("a second listener for the same port was accepted")
	}
	var de *mesh.DialError
	if _, err := orders.Dial(t.Context(), "tcp", "payments:metrics"); !errors.As(err, &de) || !errors.Is(err, mesh.ErrNoEndpoints) || de.Port != "metrics" {
		t.Errorf("dial of an unknown port: %v", err)
	}
}

func TestDeniedRaw(t *testing.T) {
	w := newWorld(t)
	payments, orders := w.join("payments"), w.join("orders")
	w.echo(w.listen(payments))
	for _, how := range []struct {
		name string
		use  func(net.Conn) error
	}{
		{"read", func(c net.Conn) error { _, err := c.Read(make([]byte, 1)); return err }},
		{"write then read", ping},
		{"write only", func(c net.Conn) error {
			for {
				if _, err := c.Write(make([]byte, 64<<10)); err != nil {
					return err
				}
			}
		}},
	} {
		t.Run(how.name, func(t *testing.T) {
			c, err := orders.Dial(t.Context(), "tcp", "payments")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			var d *mesh.DeniedError
			if err := how.use(c); !errors.As(err, &d) {
				t.Fatalf("got %v, want a *DeniedError", err)
			}
			if d.Source != "spiffe://prod.example/orders" || d.Destination != "payments" || d.Version != 1 || d.Reason == "" {
				t.Errorf("denied with %+v", d)
			}
		})
	}
}

func TestRuleChangeCutsOpenConnections(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"}, rule{from: "audit", to: "payments"})
	payments, orders, audit := w.join("payments"), w.join("orders"), w.join("audit")
	w.echo(w.listen(payments))
	dial := func(m *mesh.Mesh) net.Conn {
		c, err := m.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := ping(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	gone, stays := dial(orders), dial(audit)
	w.rules.set(rule{from: "audit", to: "payments"})
	var d *mesh.DeniedError
	if _, err := gone.Read(make([]byte, 1)); !errors.As(err, &d) || d.Version != 2 {
		t.Errorf("the connection that the change forbids: %v, want *DeniedError of version 2", err)
	}
	if err := ping(stays); err != nil {
		t.Errorf("the connection that is still allowed: %v", err)
	}
}

func TestSilentHandshakesDoNotBlock(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	ln := w.listen(payments)
	w.echo(ln)
	for range 1100 { // more than are let to wait at once
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c, err := orders.Dial(t.Context(), "tcp", "payments")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(c); err != nil {
		t.Fatal(err)
	}
}

// flakyNetwork fails every other Accept.
type flakyNetwork struct {
	net.Dialer
	failures atomic.Int32
}

func (n *flakyNetwork) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, network, address)
	return &flakyListener{ln, n}, err
}

type flakyListener struct {
	net.Listener
	n *flakyNetwork
}

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.n.failures.Add(1)%2 == 1 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestTemporaryAcceptErrors(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	flaky := &flakyNetwork{}
	payments := w.join("payments", func(c *mesh.Config) { c.Network = flaky })
	orders := w.join("orders")
	ln := w.listen(payments)
	for range 3 {
		w.pipe(orders, ln)
	}
	if n := flaky.failures.Load(); n < 3 {
		t.Errorf("only %d accepts", n)
	}
}

func TestAcceptUnblockedByClose(t *testing.T) {
	w := newWorld(t)
	payments := w.join("payments")
	for name, stop := range map[string]func(net.Listener) error{
		"listener": net.Listener.Close,
		"mesh":     func(net.Listener) error { return payments.Close() },
	} {
		ln, err := payments.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			if name == "mesh" || errors.Is(err, mesh.ErrClosed) {
				continue
			}
			t.Fatal(err)
		}
		failed := make(chan error)
		go func() {
			_, err := ln.Accept()
			failed <- err
		}()
		if err := stop(ln); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: Accept returned %v, want ErrClosed", name, err)
		}
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: second Close: %v", name, err)
		}
	}
}

func TestWrongServiceAnswers(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "mallory"})
	mallory, orders := w.join("mallory"), w.join("orders")
	ln := w.listen(mallory)
	w.echo(ln)
	w.names.Set(endpoint(addrOf(ln)))
	c, err := orders.Dial(t.Context(), "tcp", "payments")
	if err == nil {
		c.Close()
		t.Fatal("a certificate of mallory was taken for payments")
	}
	var de *mesh.DialError
	if !errors.As(err, &de) || de.Addr != addrOf(ln).String() {
		t.Errorf("got %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	c, s := w.pipe(orders, w.listen(payments))
	for _, m := range []*mesh.Mesh{payments, orders} {
		for range 2 {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for _, x := range []net.Conn{c, s} {
		if _, err := x.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read after the mesh was closed: %v", err)
		}
	}
	if _, err := orders.Dial(t.Context(), "tcp", "payments"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial on a closed mesh: %v", err)
	}
	if _, err := payments.Listen(t.Context(), "tcp", "127.0.0.1:0"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("listen on a closed mesh: %v", err)
	}
	if n := len(w.names.Lookup("payments").Endpoints); n != 0 {
		t.Errorf("%d endpoints left in discovery", n)
	}
}

func TestShutdownWaitsForConnections(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	c, s := w.pipe(orders, w.listen(payments))
	done := make(chan error)
	go func() { done <- payments.Shutdown(t.Context()) }()
	<-payments.Draining()
	go func() { _, _ = io.Copy(s, s); s.Close() }()
	if err := ping(c); err != nil {
		t.Errorf("during shutdown: %v", err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

func TestPlainTLSClient(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	ln := w.listen(w.join("payments"))
	w.echo(ln)
	c, err := dialTLS(t, ln.Addr().String(), w.bareClient())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(c); err != nil {
		t.Fatal(err)
	}
}
