package mesh_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/intramesh/mesh/meshtest"
)

// BenchmarkMessage sends a message and receives it at the other end, in one goroutine, with a network that takes no time: what is left is
// TLS, and what the mesh adds.
func BenchmarkMessage(b *testing.B) {
	n := meshtest.New(b, ordersToPayments)
	host := n.Network()
	pair := func(b *testing.B, ln net.Listener, dial func() (net.Conn, error)) (c, s net.Conn) {
		accepted := make(chan net.Conn, 1)
		go func() {
			s, err := ln.Accept()
			if err == nil {
				_, err = io.ReadFull(s, make([]byte, 1))
			}
			if err != nil {
				b.Error(err)
			}
			accepted <- s
		}()
		c, err := dial()
		if err == nil {
			_, err = c.Write(make([]byte, 1))
		}
		if err != nil {
			b.Fatal(err)
		}
		s = <-accepted
		b.Cleanup(func() { _ = c.Close(); _ = s.Close() })
		return c, s
	}
	run := func(c, s net.Conn) func(b *testing.B) {
		return func(b *testing.B) {
			for _, size := range []int{64, 1024} {
				msg := make([]byte, size)
				b.Run(map[int]string{64: "64B", 1024: "1KiB"}[size], func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if _, err := c.Write(msg); err != nil {
							b.Fatal(err)
						}
						if _, err := io.ReadFull(s, msg); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
	inner, err := host.Listen(b.Context(), "tcp", ":0")
	if err != nil {
		b.Fatal(err)
	}
	defer inner.Close()
	c, s := pair(b, tls.NewListener(inner, tlsOf(b, n.Identity(b, "payments"))), func() (net.Conn, error) {
		raw, err := host.DialContext(b.Context(), "tcp", inner.Addr().String())
		if err != nil {
			return nil, err
		}
		return tls.Client(raw, tlsOf(b, n.Identity(b, "orders"))), nil
	})
	b.Run("crypto/tls", run(c, s))
	ln, err := n.Join(b, "payments").Listen(b.Context(), "tcp", ":0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	orders := n.Join(b, "orders")
	c, s = pair(b, ln, func() (net.Conn, error) { return orders.Dial(b.Context(), "tcp", "payments") })
	b.Run("mesh", run(c, s))
}
