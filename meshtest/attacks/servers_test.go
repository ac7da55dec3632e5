package attacks

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
)

// A hostileServer is a row of the other table: a service that the rules let orders call, and what it does with each connection,
// which is closed when do returns.
type hostileServer struct {
	name string
	on   string
	// config changes its TLS; do is called after the handshake, bare before it.
	config func(e *evil, c *tls.Config)
	bare   func(c net.Conn)
	do     func(c net.Conn)
	// records is called instead of do.
	records func(r *records)
	real    bool // see attack
}

// evil is a running one.
type evil struct {
	*world
	*hostileServer
	ln       net.Listener
	accepted atomic.Int32
}

// patience is how long a caller of the evil service waits for an answer, and maxTries how often each call may connect.
const (
	patience = 5 * time.Second
	maxTries = 20
)

// Whatever a server does, a call of it ends in the time that its caller gives it, nothing is left of it, and the same program's
// calls of other services are answered at once.
func TestHostileServers(t *testing.T) {
	for _, col := range columns() {
		for _, s := range slices.Concat(anyServers(), http1Servers(), http2Servers(), grpcServers()) {
			if !s.real && (s.on == "" || slices.Contains(strings.Fields(s.on), col.name)) {
				t.Run(col.name+"/"+s.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { suffer(t, col, &s) })
				})
			}
		}
	}
}

// victim starts the service, and returns an instance of orders that knows it.
func (w *world) victim(s *hostileServer, log slog.Handler) (*caller, *evil) {
	w.t.Helper()
	w.known["evil"] = w.net.Identity(w.t, "evil")
	ln, err := w.net.Network().Listen(w.t.Context(), "tcp", ":0")
	if err != nil {
		w.t.Fatal(err)
	}
	e := &evil{world: w, hostileServer: s, ln: ln}
	e.serve()
	at := func(service, addr string) discovery.Endpoint {
		return discovery.Endpoint{Service: service, Instance: service, Addr: netip.MustParseAddrPort(addr)}
	}
	c := &caller{grpc: make(map[string]*grpc.ClientConn)}
	c.m = w.net.JoinConfig(w.t, mesh.Config{
		Service: "orders", Discovery: static.New(at("evil", ln.Addr().String()), at("payments", w.addr)), Logger: slog.New(log),
	})
	return c, e
}

// close closes all that c has, and reports whether that took too long.
func (c *caller) close(t *testing.T) {
	t.Helper()
	begun := time.Now()
	for _, cc := range c.grpc {
		_ = cc.Close()
	}
	_ = c.m.Close()
	if took := time.Since(begun); took > patient/4 {
		t.Errorf("it takes %v to close", took)
	}
}

// These stop a bubble's clock.
func TestHostileServersInRealTime(t *testing.T) {
	for _, col := range columns() {
		for _, s := range http2Servers() {
			if !s.real || !slices.Contains(strings.Fields(s.on), col.name) {
				continue
			}
			t.Run(col.name+"/"+s.name, func(t *testing.T) {
				w := newWorld(t, col, nil)
				c, _ := w.victim(&s, slog.DiscardHandler)
				for _, service := range []string{"payments", "evil", "payments", "evil", "payments"} {
					ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
					if service == "payments" {
						cancel()
						ctx, cancel = context.WithTimeout(t.Context(), patient)
					}
					begun := time.Now()
					if err := col.call(ctx, c, service); err != nil && service == "payments" {
						t.Error(err)
					}
					cancel()
					if took := time.Since(begun); took > patient/2 {
						t.Errorf("a call of %s took %v", service, took)
					}
				}
				c.close(t)
			})
		}
	}
}

func suffer(t *testing.T, col column, s *hostileServer) {
	w := newWorld(t, col, nil)
	var logged logCounter
	c, e := w.victim(s, &logged)
	good := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := col.call(ctx, c, "payments"); err != nil {
			t.Errorf("another service, after %v: %v", time.Since(w.begun), err)
		}
	}
	good()
	synctest.Wait()
	before := liveHeap()
	const calls = 3
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			for range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				start := time.Now()
				_ = col.call(ctx, c, "evil")
				cancel()
				if took := time.Since(start); took > patience+time.Second {
					t.Errorf("a call took %v", took)
				}
			}
		})
	}
	for range 12 {
		synctest.Wait()
		good()
		<-time.After(time.Second)
	}
	wg.Wait()
	if now := liveHeap(); now > before+8<<20 {
		t.Errorf("it holds %d KiB", (now-before)>>10)
	}
	for range 5 {
		good()
		<-time.After(30 * time.Second)
	}
	if n, most := e.accepted.Load(), int32(2*calls*maxTries); n > most {
		t.Errorf("%d connections were made for %d calls", n, 2*calls)
	}
	if n := logged.n.Load(); n > 200 {
		t.Errorf("%d log records", n)
	}
	c.close(t)
}

func (e *evil) serve() {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	e.until(func() {
		for {
			c, err := e.ln.Accept()
			if err != nil {
				break
			}
			e.accepted.Add(1)
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				(&peer{world: e.world}).attack(func(*peer) { e.one(c) })
			})
		}
		wg.Wait()
	}, func() {
		e.ln.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			c.Close()
		}
	})
}

// serverConfig is that of a server without our code, which writes its secrets to keys.
func serverConfig(svid *x509svid.SVID, alpn string, keys *bytes.Buffer) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpn}, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{testca.Certificate(svid)}, KeyLogWriter: keys,
	}
}

func (e *evil) one(c net.Conn) {
	if e.bare != nil {
		e.bare(c)
		return
	}
	svid, err := e.known["evil"].GetX509SVID()
	must(err)
	var keys bytes.Buffer
	conf := serverConfig(svid, e.col.alpn, &keys)
	if e.config != nil {
		e.config(e, conf)
	}
	t := tls.Server(c, conf)
	must(t.HandshakeContext(e.t.Context()))
	switch {
	case e.records != nil:
		r, err := newRecords(t, &keys, "SERVER_TRAFFIC_SECRET_0")
		must(err)
		e.records(r)
	case e.do != nil:
		e.do(t)
	}
}

// stay reads until the client leaves.
func stay(c io.Reader) { _, _ = io.Copy(io.Discard, c) }

func anyServers() []hostileServer {
	return []hostileServer{
		{name: "says nothing", bare: func(c net.Conn) { stay(c) }},
		{name: "never reads", bare: func(net.Conn) { <-time.After(10 * time.Minute) }},
		{name: "leaves at once", bare: func(net.Conn) {}},
		{name: "sends garbage", bare: func(c net.Conn) { write(c, strings.Repeat("\x00\xff\x16\x03", 1000)); stay(c) }},
		{name: "sends a hello without end", bare: func(c net.Conn) {
			write(c, "\x16\x03\x03\x40\x00\x02\xff\xff\xff"+strings.Repeat("x", 1<<14-4))
			again(64, func(int) { write(c, "\x16\x03\x03\x40\x00"+strings.Repeat("x", 1<<14)) })
		}},
		{name: "is another service", config: func(e *evil, c *tls.Config) {
			svid, err := e.known[denied].GetX509SVID()
			must(err)
			c.Certificates[0] = testca.Certificate(svid)
		}, do: func(c net.Conn) { stay(c) }},
		{name: "is of another authority", config: func(e *evil, c *tls.Config) {
			svid, err := e.known[stranger].GetX509SVID()
			must(err)
			c.Certificates[0] = testca.Certificate(svid)
		}, do: func(c net.Conn) { stay(c) }},
		{name: "has a very long chain", config: func(_ *evil, c *tls.Config) {
			chain := &c.Certificates[0].Certificate
			for len(*chain) < 300 {
				*chain = append(*chain, (*chain)[1])
			}
		}, do: func(c net.Conn) { stay(c) }},
		{name: "speaks another protocol", config: func(_ *evil, c *tls.Config) { c.NextProtos = []string{"spdy/1"} }},
		{name: "speaks no protocol", config: func(_ *evil, c *tls.Config) { c.NextProtos = nil }, do: func(c net.Conn) { stay(c) }},
		{name: "says nothing after the handshake", do: func(c net.Conn) { stay(c) }},
		{name: "leaves after the handshake", do: func(net.Conn) {}},
		{name: "sends garbage after the handshake", do: func(c net.Conn) { write(c, strings.Repeat("\x63\x00\xff\r\n", 5000)); stay(c) }},
		{name: "sends records without content", records: func(r *records) {
			again(5000, func(int) { must(r.record(recordApplication, nil)) })
			stay(r)
		}},
		{name: "updates keys without end", records: func(r *records) {
			again(5000, func(int) { must(r.keyUpdate(false)) })
			stay(r)
		}},
		{name: "sends tickets without end", records: func(r *records) {
			ticket := append([]byte{4, 0, 0, 14 + 100, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 100}, make([]byte, 102)...)
			again(5000, func(int) { must(r.record(recordHandshake, ticket)) })
			stay(r)
		}},
		{name: "sends a large handshake message", records: func(r *records) {
			must(r.record(recordHandshake, []byte{4, 0, 0xff, 0xff}))
			again(64, func(int) { must(r.record(recordHandshake, make([]byte, 1<<14))) })
			stay(r)
		}},
	}
}

// requests serves HTTP/2 by hand: answer is called for each request.
func requests(answer func(f *http2.Framer, id uint32)) func(net.Conn) {
	return func(c net.Conn) {
		_, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
		must(err)
		f := http2.NewFramer(c, c)
		f.AllowIllegalWrites = true
		must(f.WriteSettings())
		for {
			fr, err := f.ReadFrame()
			must(err)
			switch fr := fr.(type) {
			case *http2.HeadersFrame:
				answer(f, fr.StreamID)
			case *http2.SettingsFrame:
				if !fr.IsAck() {
					must(f.WriteSettingsAck())
				}
			}
		}
	}
}
