package mesh_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a mesh over real loopback sockets: those of TCP, in TestSameHost what Config says by default.
type world struct {
	t       testing.TB
	ca      *testca.CA
	names   *static.Directory
	rules   *rules
	network mesh.Network
}

// tcpAlone is the operating system's network without its Unix sockets.
type tcpAlone struct {
	net.Dialer
	net.ListenConfig
}

func newWorld(t testing.TB, rs ...rule) *world {
	t.Helper()
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString("prod.example"))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca, names: static.New(), rules: &rules{changed: make(chan struct{})}}
	w.rules.set(rs...)
	if !strings.HasPrefix(t.Name(), "TestSameHost/") {
		w.network = new(tcpAlone)
	}
	return w
}

func (w *world) source(service string) identity.Source {
	w.t.Helper()
	src, err := w.ca.Source(service)
	if err != nil {
		w.t.Fatal(err)
	}
	return src
}

// join adds a member that is closed with the test.
func (w *world) join(service string, edit ...func(*mesh.Config)) *mesh.Mesh {
	w.t.Helper()
	cfg := mesh.Config{
		Service: service, Identity: w.source(service), Policy: w.rules, Network: w.network,
		Discovery: w.names.Member(service + "-" + w.t.Name() + time.Now().String()),
	}
	for _, f := range edit {
		f(&cfg)
	}
	m, err := mesh.Join(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := m.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return m
}

func (w *world) listen(m *mesh.Mesh, opts ...mesh.ListenOptions) net.Listener {
	w.t.Helper()
	ln, err := m.Listen(w.t.Context(), "tcp", "127.0.0.1:0", opts...)
	if err != nil {
		w.t.Fatal(err)
	}
	return ln
}

// serveHTTP serves h, decided request by request, until the test ends.
func (w *world) serveHTTP(m *mesh.Mesh, h http.HandlerFunc, port ...string) net.Listener {
	w.t.Helper()
	var o mesh.ListenOptions
	if len(port) > 0 {
		o.Port = port[0]
	}
	ln := w.listen(m, o)
	srv := &http.Server{Handler: m.Handler(h, port...), ReadHeaderTimeout: 10 * time.Second}
	serveUntilEnd(w.t, srv, ln)
	return ln
}

// serveUntilEnd has srv accept from ln until the test ends.
func serveUntilEnd(t testing.TB, srv *http.Server, ln net.Listener) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

func addrOf(ln net.Listener) netip.AddrPort {
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// endpoint is one of payments.
func endpoint(addr netip.AddrPort) discovery.Endpoint {
	return discovery.Endpoint{Service: "payments", Instance: "by-hand", Addr: addr}
}

// rule lets one service call another; path "" is any request and raw connections too.
type rule struct{ from, to, path string }

// rules is a live authorizer of these, as simple as it can be: the engine has tests of its own.
type rules struct {
	mu      sync.Mutex
	rules   []rule
	version uint64
	bare    bool // denials are not explained
	changed chan struct{}
}

func (rs *rules) set(r ...rule) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.rules = r
	rs.version++
	close(rs.changed)
	rs.changed = make(chan struct{})
}

func (rs *rules) Changed() <-chan struct{} {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.changed
}

func (rs *rules) Authorize(_ context.Context, r *policy.Request) policy.Decision {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	d := policy.Decision{Rule: -1, Version: rs.version, Layer: r.Layer, Tell: !rs.bare, Reason: "no rule allows " + r.Source.String()}
	for i, x := range rs.rules {
		if "/"+x.from != r.Source.Path() || x.to != r.Destination {
			continue
		}
		if x.path == "" || r.Deferred || r.Layer == policy.LayerHTTP && strings.HasPrefix(r.Path, x.path) ||
			r.Layer == policy.LayerGRPC && r.GRPCMethod == x.path {
			d.Verdict, d.Policy, d.Rule, d.Reason = policy.Allow, "test", i, "allowed"
			return d
		}
	}
	return d
}
