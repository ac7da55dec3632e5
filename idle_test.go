package mesh_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/meshtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Each connection ends when its own certificate does, in whatever order they came, and whichever left before.
func TestEachConnectionEndsWithItsCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := testca.New(spiffeid.RequireTrustDomainFromString(meshtest.TrustDomain))
		if err != nil {
			t.Fatal(err)
		}
		src, err := ca.Source("payments")
		if err != nil {
			t.Fatal(err)
		}
		n := meshtest.New(t, ordersToPayments)
		payments := n.JoinConfig(t, mesh.Config{Service: "payments", Identity: src})
		defer payments.Close()
		ln, err := payments.Listen(t.Context(), "tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		serveEcho(ln, func(net.Conn) {})
		host := n.Network()
		const conns = 60
		ended := make(chan struct{}, conns)
		ends := rand.Perm(conns)
		for i, end := range ends {
			expiry := time.Now().Truncate(time.Second).Add(time.Duration(1+end/2) * time.Minute)
			svid, err := ca.SVID("orders", func(c *x509.Certificate) { c.NotAfter = expiry })
			if err != nil {
				t.Fatal(err)
			}
			inner, err := host.DialContext(t.Context(), "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c := tls.Client(inner, &tls.Config{
				InsecureSkipVerify: true, Certificates: []tls.Certificate{testca.Certificate(svid)},
				NextProtos: [][]string{{"mesh/2"}, nil}[i%2],
			})
			defer c.Close()
			if err := c.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			leaves := i%5 == 0
			go func() {
				if leaves {
					time.AfterFunc(time.Duration(i)*time.Second, func() { _ = inner.Close() })
				}
				_, _ = io.Copy(io.Discard, c)
				if late := time.Since(expiry); !leaves && (late < 0 || late > 300*time.Millisecond) {
					t.Errorf("a connection ended %v after its certificate", late)
				}
				ended <- struct{}{}
			}()
			synctest.Wait()
		}
		for range conns {
			<-ended
		}
	})
}

// What callers show is kept once: a server's memory for connections of one caller, or of callers with one issuer.
func TestConnectionsShareCertificates(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"}, rule{from: "web", to: "payments"})
	ln := w.listen(w.join("payments"), mesh.ListenOptions{ALPN: []string{"bench"}})
	defer ln.Close()
	accepted := make(chan net.Conn)
	go func() { // Accept is what starts handshakes
		for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
			accepted <- c
		}
	}()
	accept := func(conf *tls.Config) []*x509.Certificate {
		conf.NextProtos = []string{"bench"}
		c, err := dialTLS(t, ln.Addr().String(), conf)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		s := <-accepted
		t.Cleanup(func() { _ = s.Close() })
		return s.(*tls.Conn).ConnectionState().PeerCertificates
	}
	orders := tlsOf(t, w.source("orders"))
	a, b, c := accept(orders), accept(orders), accept(tlsOf(t, w.source("web")))
	if a[0] != b[0] || a[1] != b[1] {
		t.Error("two connections of a caller hold its certificates twice")
	}
	if a[0] == c[0] || a[1] != c[1] {
		t.Error("callers share all but an issuer")
	}
}

// A connection that is open and quiet has the application's goroutine at the server, and none else at either end.
func TestQuietConnectionsNeedNoGoroutine(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		const conns = 20
		dial := func() {
			c, err := w.orders.Dial(t.Context(), "tcp", "payments")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			if err := ping(c); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
			synctest.Wait()
		}
		dial() // on the connection that waited
		before := runtime.NumGoroutine()
		for range conns {
			dial()
		}
		if n := runtime.NumGoroutine() - before; n >= 2*conns { // some are other tests'
			t.Errorf("%d goroutines for %d connections", n, conns)
		}
	})
}
