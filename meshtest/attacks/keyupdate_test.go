package attacks

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/meshtest"
)

// TLS answers a key update from within Read, while it holds what Write and Close need. Where the peer has left no room for the answer,
// nothing of this process may wait for that.

// window is what a connection in memory holds, and overhead what the record of a frame adds to its payload.
const (
	window   = 64 << 10
	overhead = 4 + 5 + 1 + 16
)

// fill returns four payloads, whose frames leave room for so many frames without one, and not for a key update.
func fill(words int) []byte { return bytes.Repeat([]byte("x"), (window-words*overhead-10)/4-overhead) }

// within fails the test when f takes too long.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patient):
		t.Fatalf("%s takes too long", what)
	}
}

func TestServerHasKeysUpdatedBetweenStreams(t *testing.T) {
	n := meshtest.New(t, meshtest.Allow("payments", allowed))
	m := n.Join(t, "payments")
	ln, err := m.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 1))
		for range 4 {
			_, _ = c.Write(fill(2))
		}
		_ = c.Close()
	}()
	w := &world{t: t, net: n, addr: ln.Addr().String(), col: columns()[0], idle: 5 * time.Second}
	w.known = map[string]identity.Source{allowed: n.Identity(t, allowed)}
	p := &peer{world: w, who: allowed}
	p.attack(func(p *peer) { // no ticket comes to who has no use for one
		r := p.records()
		must(r.record(recordApplication, []byte(rawFrame(fData, 0, "x"))))
		<-closed
		must(r.record(recordApplication, []byte(rawFrame(fClose, 0, ""))))
		for range 8 {
			must(r.keyUpdate(true))
		}
	})
	within(t, "closing the listener", func() { ln.Close() })
	within(t, "closing the mesh", func() { _ = m.Close() })
}

func TestClientHasKeysUpdatedBetweenStreams(t *testing.T) {
	n := meshtest.New(t)
	ln, err := n.Network().Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	svid, err := n.Identity(t, "evil").GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	written, sent := make(chan struct{}), make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			var keys bytes.Buffer
			s := tls.Server(c, serverConfig(svid, "mesh/2", &keys))
			if s.HandshakeContext(t.Context()) != nil || i > 0 {
				continue
			}
			r, err := newRecords(s, &keys, "SERVER_TRAFFIC_SECRET_0")
			if err != nil {
				t.Error(err)
			}
			<-written
			_ = r.record(recordApplication, []byte(rawFrame(fClose, 0, "")))
			for range 8 {
				_ = r.keyUpdate(true)
			}
			close(sent)
		}
	}()
	m := n.Join(t, "orders")
	addr := netip.MustParseAddrPort(ln.Addr().String())
	dial := func() net.Conn {
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		c, err := m.DialEndpoint(ctx, "evil", addr)
		if err != nil {
			t.Error(err)
		}
		return c
	}
	c := dial()
	for range 4 {
		_, _ = c.Write(fill(1))
	}
	_ = c.Close()
	close(written)
	<-sent
	within(t, "the next dial", func() { dial() })
	within(t, "closing the mesh", func() { _ = m.Close() })
}

// A program that stops does not wait for who has keys updated.
func TestStopsWhileKeysAreUpdated(t *testing.T) {
	for _, col := range columns() {
		if col.name != "raw" && col.name != "grpc" { // net/http's server has time limits
			continue
		}
		t.Run(col.name, func(t *testing.T) {
			w := newWorld(t, col, nil)
			i := slices.IndexFunc(table(), func(a attack) bool { return a.real && strings.Contains(a.on, col.name) })
			p := &peer{world: w, who: allowed}
			w.idle = time.Second // of the attacker alone: then it is full
			p.attack(table()[i].do)
			within(t, "stopping the server", w.stop)
			within(t, "closing the mesh", func() { _ = w.server.Close() })
			p.leave()
		})
	}
}
