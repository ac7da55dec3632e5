package mesh_test

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/policy"
)

// However many connections a caller has, a change asks the rules about it once for each port.
func TestChangeIsDecidedOncePerCaller(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"}, rule{from: "shop", to: "payments"})
	var decided atomic.Int32
	cut := make(chan string, 100)
	payments := w.join("payments", func(c *mesh.Config) {
		c.Trace = &mesh.Trace{
			Decided: func(*policy.Request, policy.Decision) { decided.Add(1) },
			ConnCut: func(p mesh.Peer, _ *mesh.DeniedError) { cut <- p.Service() },
		}
	})
	w.echo(w.listen(payments))
	w.echo(w.listen(payments, mesh.ListenOptions{Port: "admin"}))
	const each = 20
	open := func(m *mesh.Mesh, address string) (conns []net.Conn) {
		for range each {
			c, err := m.Dial(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			if err := ping(c); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
		return conns
	}
	orders, shop := w.join("orders"), w.join("shop")
	stay := append(open(orders, "payments"), open(orders, "payments:admin")...)
	leave := open(shop, "payments")
	if n := decided.Swap(0); n != 3*each {
		t.Errorf("%d decisions for %d connections", n, 3*each)
	}
	w.rules.set(rule{from: "orders", to: "payments"})
	for range each {
		if who := <-cut; who != "shop" {
			t.Errorf("%s was cut", who)
		}
	}
	for _, c := range leave {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !isDenied(err) {
			t.Errorf("a connection that was cut ended with %v", err)
		}
	}
	for _, c := range stay {
		if err := ping(c); err != nil {
			t.Error(err)
		}
	}
	if n := decided.Load(); n != 3 {
		t.Errorf("%d decisions for a change that concerns three kinds of connections", n)
	}
}

// A peer that does not read what it is told neither keeps its connection nor holds up that others are told.
func TestCutOfPeersThatDoNotRead(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	cut := make(chan struct{}, 100)
	payments := w.join("payments", func(c *mesh.Config) {
		c.Trace = &mesh.Trace{ConnCut: func(mesh.Peer, *mesh.DeniedError) { cut <- struct{}{} }}
	})
	ln := w.listen(payments)
	accepted := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	orders := w.join("orders")
	const n = 30
	var ended []chan error
	for range n {
		c, err := orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		server, end := <-accepted, make(chan error, 1)
		go func() { // until the buffers are full, and then blocked
			var err error
			for err == nil {
				_, err = server.Write(make([]byte, 64<<10))
			}
			end <- err
		}()
		ended = append(ended, end)
	}
	w.rules.set()
	for _, end := range ended {
		if err := <-end; !isDenied(err) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("a Write that was under way ended with %v", err)
		}
	}
	for range n {
		<-cut
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}

func isDenied(err error) bool {
	_, ok := errors.AsType[*mesh.DeniedError](err)
	return ok
}
