package attacks

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/meshgrpc"
	"github.com/intramesh/mesh/meshtest"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dose is how many times as much a nightly run does of everything that is a flood.
func dose() int {
	if os.Getenv("MESH_NIGHTLY") != "" {
		return 10
	}
	return 1
}

// Who attacks: orders is the honest neighbour.
const (
	allowed  = "mallory"
	denied   = "trudy"
	stranger = "stranger" // his certificate is of another authority
)

// A column is what a server speaks.
type column struct {
	name, alpn string
	// serve serves until the end of the test, as a program does that sets the time limits which it is told to.
	serve func(w *world, ln net.Listener)
	// call makes one call to a service, on connections of earlier calls if there are any.
	call func(ctx context.Context, c *caller, service string) error
	// holds is how many bytes one allowed connection may make the server hold, handlers how many of the application's.
	holds    uint64
	handlers int32
}

func columns() []column {
	web := func(alpn string) column {
		return column{name: alpn, alpn: alpn, serve: serveWeb, call: callWeb, holds: 16 << 20, handlers: 250}
	}
	http1, http2 := web("http/1.1"), web("h2")
	http1.name, http1.holds, http1.handlers = "http1", 4<<20, 1
	return []column{
		{name: "raw", alpn: "mesh/2", serve: serveRaw, call: callRaw, holds: 1 << 20},
		http1, http2,
		{name: "grpc", alpn: "h2", serve: serveGRPC, call: callGRPC, holds: 24 << 20, handlers: 4096},
	}
}

// A world is a mesh in which payments is attacked while orders calls it.
type world struct {
	t       testing.TB
	net     *meshtest.Net
	network mesh.Network // nil is the one in memory
	server  *mesh.Mesh
	addr    string
	col     column
	logged  logCounter
	known   map[string]identity.Source
	begun   time.Time
	idle    time.Duration // how long the servers let a peer be silent
	stop    func()        // ends the server
	over    chan struct{} // closed when attackers that take their time have had enough of it

	handlers, most atomic.Int32 // that run, and ever did at once

	mu    sync.Mutex
	conns []net.Conn // of the attackers
}

// A caller is an honest member.
type caller struct {
	m    *mesh.Mesh
	mu   sync.Mutex
	grpc map[string]*grpc.ClientConn
}

func (w *world) join(service string) *mesh.Mesh {
	w.t.Helper()
	cfg := mesh.Config{Service: service, Network: w.network, Logger: slog.New(slog.DiscardHandler)}
	if service == "payments" {
		cfg.Logger = slog.New(&w.logged)
	}
	return w.net.JoinConfig(w.t, cfg)
}

func newWorld(t testing.TB, col column, network mesh.Network) *world {
	t.Helper()
	w := &world{
		t: t, col: col, network: network, begun: time.Now(), idle: 30 * time.Second, over: make(chan struct{}), known: make(map[string]identity.Source),
		net: meshtest.New(t, meshtest.Allow("payments", "orders"), meshtest.Allow("payments", allowed), meshtest.Allow("evil", "orders")),
	}
	if network != nil {
		w.idle = 5 * time.Second
	}
	for _, who := range []string{allowed, denied} {
		w.known[who] = w.net.Identity(t, who)
	}
	other, err := testca.New(spiffeid.RequireTrustDomainFromString(meshtest.TrustDomain))
	if err != nil {
		t.Fatal(err)
	}
	if w.known[stranger], err = other.Source("orders"); err != nil {
		t.Fatal(err)
	}
	w.server = w.join("payments")
	ln, err := w.server.Listen(t.Context(), "tcp", listenAddr(network), mesh.ListenOptions{ALPN: []string{col.alpn}})
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	col.serve(w, ln)
	return w
}

func listenAddr(n mesh.Network) string {
	if n == nil {
		return ":0"
	}
	return "127.0.0.1:0"
}

// caller returns a new instance of orders, without connections.
func (w *world) caller() (c *caller, closed func()) {
	c = &caller{m: w.join("orders"), grpc: make(map[string]*grpc.ClientConn)}
	return c, func() {
		for _, cc := range c.grpc {
			_ = cc.Close()
		}
		_ = c.m.Close()
	}
}

// until runs f, which ends when stop has been called, and stop at the end of the test.
func (w *world) until(f, stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	w.stop = stop
	w.t.Cleanup(func() {
		stop()
		<-done
	})
}

func serveRaw(w *world, ln net.Listener) {
	w.until(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				for {
					_ = c.SetDeadline(time.Now().Add(w.idle))
					n, err := c.Read(b)
					if n > 0 && b[0] == 'S' { // it is to be swallowed
						continue
					}
					if _, werr := c.Write(b[:n]); err != nil || werr != nil {
						return
					}
				}
			}()
		}
	}, func() { ln.Close() })
}

func callRaw(ctx context.Context, c *caller, service string) error {
	conn, err := c.m.Dial(ctx, "tcp", service)
	if err != nil {
		return err
	}
	defer conn.Close()
	until, _ := ctx.Deadline()
	_ = conn.SetDeadline(until)
	if _, err := io.WriteString(conn, "well"); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != "well" {
		return errors.New("got " + string(b))
	}
	return nil
}

func serveWeb(w *world, ln net.Listener) {
	large := make([]byte, 1<<20)
	srv := &http.Server{
		Handler: w.server.Handler(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			defer w.handles()()
			switch r.URL.Path {
			case "/hold":
				<-r.Context().Done()
			case "/large":
				_, _ = rw.Write(large)
			case "/read":
				_, _ = io.Copy(io.Discard, r.Body)
			default:
				_, _ = io.WriteString(rw, "well")
			}
		})),
		ReadTimeout: w.idle, ReadHeaderTimeout: w.idle / 6, IdleTimeout: 2 * w.idle, WriteTimeout: w.idle,
		HTTP2:    &http.HTTP2Config{SendPingTimeout: w.idle / 2, PingTimeout: w.idle / 2, WriteByteTimeout: w.idle / 2},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	w.until(func() { _ = srv.Serve(ln) }, func() { _ = srv.Close() })
}

func callWeb(ctx context.Context, c *caller, service string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+service+"/", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.m.HTTPClient().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || string(b) != "well" {
		return errors.New("got " + resp.Status)
	}
	return nil
}

// handles counts a handler until what it returns is called.
func (w *world) handles() (done func()) {
	n := w.handlers.Add(1)
	for {
		if most := w.most.Load(); n <= most || w.most.CompareAndSwap(most, n) {
			break
		}
	}
	return func() { w.handlers.Add(-1) }
}

type greeter struct {
	pb.UnimplementedTestServiceServer
	w *world
}

func (greeter) UnaryCall(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return &pb.SimpleResponse{Username: "well"}, nil
}

func (g greeter) FullDuplexCall(s grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	defer g.w.handles()()
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

func serveGRPC(w *world, ln net.Listener) {
	var opts []grpc.ServerOption
	if w.network != nil {
		opts = append(opts, grpc.KeepaliveParams(keepalive.ServerParameters{Time: w.idle, Timeout: 2 * w.idle})) // the default takes its time
	}
	srv := meshgrpc.NewServer(w.server, opts...)
	pb.RegisterTestServiceServer(srv, greeter{w: w})
	w.until(func() { _ = srv.Serve(ln) }, srv.Stop)
}

func (c *caller) connect(service string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cc := c.grpc[service]; cc != nil {
		return cc, nil
	}
	cc, err := meshgrpc.NewClient(c.m, service, meshgrpc.Idempotent("grpc.testing.TestService/UnaryCall"))
	if err == nil {
		c.grpc[service] = cc
	}
	return cc, err
}

func callGRPC(ctx context.Context, c *caller, service string) error {
	cc, err := c.connect(service)
	if err != nil {
		return err
	}
	r, err := pb.NewTestServiceClient(cc).UnaryCall(ctx, &pb.SimpleRequest{})
	if err != nil {
		return err
	}
	if r.GetUsername() != "well" {
		return errors.New("got " + r.GetUsername())
	}
	return nil
}

// A logCounter counts what is logged.
type logCounter struct{ n atomic.Int64 }

func (*logCounter) Enabled(context.Context, slog.Level) bool { return true }
func (l *logCounter) Handle(context.Context, slog.Record) error {
	l.n.Add(1)
	return nil
}
func (l *logCounter) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logCounter) WithGroup(string) slog.Handler      { return l }

// liveHeap is what the process holds, stacks included. What pools keep for the next user is theirs until the second collection.
func liveHeap() uint64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return s.HeapAlloc + s.StackInuse
}
