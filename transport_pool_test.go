package mesh_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
)

// counted is an instance of payments that counts the connections it has open. 0 streams are net/http's default.
type counted struct {
	*mesh.Mesh
	ln   net.Listener
	open atomic.Int32
}

func serveCounted(t *testing.T, n *meshtest.Net, maxStreams int, h http.HandlerFunc, alpn ...string) *counted {
	t.Helper()
	c := &counted{Mesh: n.Join(t, "payments")}
	var err error
	if c.ln, err = c.Listen(t.Context(), "tcp", ":0", mesh.ListenOptions{ALPN: alpn}); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: c.Handler(h), ReadHeaderTimeout: time.Minute}
	srv.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxStreams}
	srv.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s { //nolint:exhaustive // the others are in between
		case http.StateNew:
			c.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			c.open.Add(-1)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(c.ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return c
}

func (c *counted) wantOpen(t *testing.T, when string, want int32) {
	t.Helper()
	synctest.Wait()
	if got := c.open.Load(); got != want {
		t.Errorf("%s: %d connections are open, want %d", when, got, want)
	}
}

func ok(http.ResponseWriter, *http.Request) {}

// pass lets virtual time pass.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // inside synctest

func TestPoolKeepsAndDropsConnections(t *testing.T) {
	for _, proto := range []string{"h2", "http/1.1"} {
		t.Run(strings.ReplaceAll(proto, "/", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.New(t, meshtest.Allow("payments", "orders"))
				a := serveCounted(t, n, 0, ok, proto)
				c := n.Join(t, "orders").HTTPClient()
				for range 3 {
					get(t, c, "http://payments/")
					a.wantOpen(t, "in use", 1)
					pass(80 * time.Second)
				}
				a.wantOpen(t, "after 80 s", 1)
				pass(45 * time.Second)
				a.wantOpen(t, "after 125 s", 0)

				get(t, c, "http://payments/")
				c.CloseIdleConnections()
				a.wantOpen(t, "after CloseIdleConnections", 0)
			})
		})
	}
}

func TestPoolFollowsDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		hold := make(chan struct{})
		slow := func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				_ = http.NewResponseController(w).Flush()
				<-hold
				_, _ = io.WriteString(w, "done")
			}
		}
		leaving := serveCounted(t, n, 0, slow)
		c := n.Join(t, "orders").HTTPClient()
		resp, err := c.Do(newRequest(t, http.MethodGet, "http://payments/slow", nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		staying := serveCounted(t, n, 0, slow)
		leaving.ln.Close() // withdraws it
		for range 10 {
			get(t, c, "http://payments/")
		}
		staying.wantOpen(t, "the endpoint that stays", 1)
		leaving.wantOpen(t, "the endpoint that left, a request under way", 1)
		close(hold)
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "done" {
			t.Errorf("the request under way: %q, %v", body, err)
		}
		leaving.wantOpen(t, "the endpoint that left", 0)
	})
}

// hang starts n requests that the handler holds, and returns once it has them.
func hang(t *testing.T, c *http.Client, n int) (wait func()) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if _, err := tryGet(t.Context(), c, "http://payments/"); err != nil {
				t.Error(err)
			}
		})
	}
	synctest.Wait()
	return wg.Wait
}

func TestPoolOpensConnectionsAsNeeded(t *testing.T) {
	for _, c := range []struct {
		name           string
		limit          int // of the server
		requests, want int
	}{
		{"one is enough", 250, 64, 1},
		{"many requests", 250, 150, 3},
		{"beyond the most", 1000, 64 * 10, 8},
		{"a server with a low limit", 2, 10, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.New(t, meshtest.Allow("payments", "orders"))
				hold := make(chan struct{})
				held := new(atomic.Int32)
				a := serveCounted(t, n, c.limit, func(http.ResponseWriter, *http.Request) {
					held.Add(1)
					<-hold
				})
				client := n.Join(t, "orders").HTTPClient()
				var waits []func()
				for range c.requests / 2 { // pairs: settings arrive, and nobody waits for a dial with all others
					waits = append(waits, hang(t, client, 2))
				}
				if got := int(held.Load()); got != c.requests {
					t.Errorf("the server has %d requests of %d", got, c.requests)
				}
				a.wantOpen(t, "all requests under way", int32(c.want))
				close(hold)
				for _, wait := range waits {
					wait()
				}
			})
		})
	}
}

// A request that gives up while it waits for a connection must not take the connection with it.
func TestPoolDialOutlivesTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		a := serveCounted(t, n, 0, ok)
		slow := &slowNetwork{Network: n.Network(), delay: time.Second}
		c := n.JoinConfig(t, mesh.Config{Service: "orders", Network: slow}).HTTPClient()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := tryGet(ctx, c, "http://payments/"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		pass(time.Second)
		a.wantOpen(t, "later", 1)
		get(t, c, "http://payments/")
		if got := slow.dials.Load(); got != 1 {
			t.Errorf("dialed %d times, want once", got)
		}
	})
}

func TestPoolNoticesASilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		serveCounted(t, n, 0, ok)
		slow := &slowNetwork{Network: n.Network()}
		c := n.JoinConfig(t, mesh.Config{Service: "orders", Network: slow}).HTTPClient()
		get(t, c, "http://payments/")
		slow.freeze()
		start := time.Now()
		get(t, c, "http://payments/") // over a new connection, in the end
		if took := time.Since(start); took > 16*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestCloseInterruptsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		a := serveCounted(t, n, 0, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		orders := n.Join(t, "orders")
		got := make(chan error)
		go func() {
			_, err := tryGet(t.Context(), orders.HTTPClient(), "http://payments/")
			got <- err
		}()
		synctest.Wait()
		a.wantOpen(t, "before", 1)
		orders.Close()
		if err := <-got; !errors.Is(err, mesh.ErrClosed) {
			t.Errorf("the request ended with %v", err)
		}
		a.wantOpen(t, "after", 0)
	})
}

// slowNetwork delays connecting, and can let what it connected fall silent.
type slowNetwork struct {
	mesh.Network
	delay time.Duration
	dials atomic.Int32

	mu    sync.Mutex
	conns []*silentConn
}

func (n *slowNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	n.dials.Add(1)
	pass(n.delay)
	c, err := n.Network.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s := &silentConn{Conn: c, closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, s)
	return s, nil
}

func (n *slowNetwork) freeze() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		c.frozen.Store(true)
	}
}

type silentConn struct {
	net.Conn
	frozen atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func (c *silentConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.frozen.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *silentConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
