package mesh_test

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/internal/h2raw"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/meshtest"
)

// A hostilePeer is a member whose certificate is good and whose HTTP is not. It returns when it has done what it can; its
// connection stays open.
type hostilePeer struct {
	name, alpn string
	attack     func(t *testing.T, c *tls.Conn)
}

const endless = 16 << 20 // more than anybody should take in

// writeAll writes until the server has had enough.
func writeAll(t *testing.T, c net.Conn, part string) {
	t.Helper()
	for n := 0; n < endless; n += len(part) {
		if _, err := io.WriteString(c, part); err != nil {
			return
		}
	}
	t.Errorf("the server took %d bytes", endless)
}

// flood opens streams, and resets them at once or not, until the server has had enough.
func flood(t *testing.T, c *tls.Conn, reset bool) {
	t.Helper()
	h, err := h2raw.New(c)
	if err != nil {
		t.Error(err)
		return
	}
	go func() { _, _ = io.Copy(io.Discard, c) }()
	for range 5000 {
		id, err := h.Open(pseudo("GET", "/hold", "payments")...)
		if err == nil && reset {
			err = h.Reset(id)
		}
		if err != nil {
			return
		}
	}
}

func hostilePeers() []hostilePeer {
	return []hostilePeer{
		{"stalls before its request", "http/1.1", func(*testing.T, *tls.Conn) {}},
		{"stalls within a header", "http/1.1", func(_ *testing.T, c *tls.Conn) { _, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: pay") }},
		{"sends a header without end", "http/1.1", func(t *testing.T, c *tls.Conn) {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: payments\r\n")
			writeAll(t, c, "X-Filler: "+strings.Repeat("x", 1000)+"\r\n")
		}},
		{"sends garbage", "http/1.1", func(_ *testing.T, c *tls.Conn) { _, _ = c.Write(make([]byte, 4096)) }},
		{"never reads", "http/1.1", func(_ *testing.T, c *tls.Conn) {
			_, _ = io.WriteString(c, strings.Repeat("GET /large HTTP/1.1\r\nHost: payments\r\n\r\n", 100))
		}},
		{"stalls before the preface", "h2", func(*testing.T, *tls.Conn) {}},
		{"stalls within a frame", "h2", func(t *testing.T, c *tls.Conn) {
			if _, err := h2raw.New(c); err != nil {
				t.Error(err)
			}
			_, _ = c.Write([]byte{0, 1, 0, 1, 4, 0, 0, 0, 1, 0x82}) // HEADERS of 256 bytes, of which one comes
		}},
		{"sends a header block without end", "h2", func(t *testing.T, c *tls.Conn) {
			if _, err := h2raw.New(c); err != nil {
				t.Error(err)
			}
			frame := "\x00\x40\x00\x09\x00\x00\x00\x00\x01" + strings.Repeat("\x00\x01a\x01b", 16<<10/5+1)[:16<<10] // CONTINUATION
			_, _ = io.WriteString(c, "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82")
			go func() { _, _ = io.Copy(io.Discard, c) }()
			writeAll(t, c, frame)
		}},
		{"sends garbage", "h2", func(_ *testing.T, c *tls.Conn) { _, _ = c.Write(make([]byte, 4096)) }},
		{"never reads", "h2", func(t *testing.T, c *tls.Conn) {
			h, err := h2raw.New(c)
			for i := 0; err == nil && i < 100; i++ {
				_, err = h.Open(pseudo("GET", "/large", "payments")...)
			}
			if err != nil {
				t.Error(err)
			}
		}},
		{"floods opens", "h2", func(t *testing.T, c *tls.Conn) { flood(t, c, false) }},
		{"floods opens and resets", "h2", func(t *testing.T, c *tls.Conn) { flood(t, c, true) }},
	}
}

// Whatever a peer does, its connection ends in the time that the server's limits say, it never holds more than so many handlers,
// and another one's requests are answered meanwhile.
func TestHostileHTTPPeers(t *testing.T) {
	for _, p := range hostilePeers() {
		t.Run(strings.ReplaceAll(p.alpn, "/", "-")+" "+p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { survive(t, p) })
		})
	}
}

func survive(t *testing.T, p hostilePeer) {
	n := meshtest.New(t, meshtest.Allow("payments", "orders", "mallory"))
	m := n.Join(t, "payments")
	ln, err := m.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	var open, held, most atomic.Int32
	large := make([]byte, 1<<20)
	srv := &http.Server{
		Handler: m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n := held.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer held.Add(-1)
			switch r.URL.Path {
			case "/hold":
				<-r.Context().Done()
			case "/large":
				_, _ = w.Write(large)
			default:
				_, _ = io.WriteString(w, "well")
			}
		})),
		ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, WriteTimeout: 30 * time.Second,
		HTTP2:    &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: 15 * time.Second},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s { //nolint:exhaustive // the others are in between
			case http.StateNew:
				open.Add(1)
			case http.StateClosed, http.StateHijacked:
				open.Add(-1)
			}
		},
	}
	serveUntilEnd(t, srv, ln)
	c := n.Join(t, "orders").HTTPClient()
	want := func() {
		t.Helper()
		start := time.Now()
		if got := get(t, c, "http://payments/"); got != "well" || time.Since(start) > time.Second {
			t.Errorf("another peer's request: %q after %v", got, time.Since(start))
		}
	}
	want()

	svid, err := n.Identity(t, "mallory").GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	before := liveHeap()
	for range 3 {
		raw, err := n.Network().DialContext(t.Context(), "tcp", addrOf(ln).String())
		if err != nil {
			t.Fatal(err)
		}
		hostile := tls.Client(raw, &tls.Config{
			MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{p.alpn}, Certificates: []tls.Certificate{testca.Certificate(svid)},
		})
		t.Cleanup(func() { raw.Close() })
		if err := hostile.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.attack(t, hostile)
		want()
	}
	if after := liveHeap(); after > before+40<<20 {
		t.Errorf("three such peers hold %d MiB", (after-before)>>20)
	}
	synctest.Wait()
	if n := most.Load(); n > 3*250+1 { // net/http's limit of concurrent streams
		t.Errorf("%d handlers ran at once", n)
	}
	want()
	pass(3 * time.Minute)
	want()
	synctest.Wait()
	if n := open.Load(); n != 1 || held.Load() != 0 {
		t.Errorf("in the end %d connections are open, and %d handlers run", n, held.Load())
	}
	if s := m.Stats(); s.Cut > 0 {
		t.Errorf("the rules had a part in it: %+v", s)
	}
}

func liveHeap() uint64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
