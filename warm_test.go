package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/internal/testserve"
	"github.com/intramesh/mesh/meshtest"
	"github.com/intramesh/mesh/policy"
	"golang.org/x/net/nettest"
)

// call dials, has a message echoed, and ends the stream properly.
func call(ctx context.Context, m *mesh.Mesh, to string) error {
	c, err := m.Dial(ctx, "tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := ping(c); err != nil {
		return err
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		return err
	}
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 { // the server has closed its side, too
		return fmt.Errorf("after the end: %q, %w", b, err)
	}
	return nil
}

func allowed(m *mesh.Mesh) uint64 { return m.Stats().Decisions[policy.LayerConnection][policy.Allow] }

// countingNetwork counts what is dialed.
type countingNetwork struct {
	net.Dialer
	net.ListenConfig
	dials atomic.Int64
}

func (n *countingNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	n.dials.Add(1)
	return n.Dialer.DialContext(ctx, network, address)
}

func TestDialAgainNeedsNoHandshake(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	network := new(countingNetwork)
	var traced atomic.Int64
	trace := &mesh.Trace{DialDone: func(_, _ string, _ netip.AddrPort, _ time.Duration, err error) { traced.Add(1) }}
	payments := w.join("payments")
	orders := w.join("orders", func(c *mesh.Config) { c.Network, c.Trace = network, trace })
	w.echo(w.listen(payments))
	const calls = 100
	for range calls {
		if err := call(t.Context(), orders, "payments"); err != nil {
			t.Fatal(err)
		}
	}
	if n := allowed(payments); n < calls {
		t.Errorf("%d connections were decided, want %d", n, calls)
	}
	if n := traced.Load(); n != calls {
		t.Errorf("%d dials were traced", n)
	}
	if n, reused := network.dials.Load(), orders.Stats().Reused; n > calls/10 || uint64(n)+reused != calls {
		t.Errorf("%d handshakes and %d connections used again for %d dials", n, reused, calls)
	}
}

func TestReusedConnBehavesAsNetConn(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	ln := w.listen(payments)
	for _, streams := range []uint64{1, 5} {
		t.Run(fmt.Sprint("after ", streams), func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				for before := orders.Stats().Reused; orders.Stats().Reused < before+streams; { // the last pair is one of them
					if c1 != nil {
						if err := exchange(c1, c2); err != nil {
							return nil, nil, nil, err
						}
						c1.Close()
						c2.Close() // there may be the next stream already
					}
					c1, c2 = w.pipe(orders, ln)
				}
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

// exchange has both ends of a connection say a word.
func exchange(client, server net.Conn) error {
	for _, from := range []net.Conn{client, server} {
		to := client
		if from == client {
			to = server
		}
		if _, err := io.WriteString(from, "word"); err != nil {
			return err
		}
		if _, err := io.ReadFull(to, make([]byte, 4)); err != nil {
			return err
		}
	}
	return nil
}

// memWorld is a mesh in memory, in a bubble: orders may call payments, which echoes.
type memWorld struct {
	t                *testing.T
	net              *meshtest.Net
	network          *memNetwork // of orders
	client, server   *changingSource
	orders, payments *mesh.Mesh
	ln               net.Listener
}

type memNetwork struct {
	mesh.Network
	dials atomic.Int64
}

func (n *memNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	n.dials.Add(1)
	return n.Network.DialContext(ctx, network, address)
}

const ordersToPayments = `{"apiVersion":"mesh/v1","kind":"Authorization","metadata":{"name":"p"},"spec":{"service":"payments","action":"allow","rules":[{"from":[{"services":["orders"]}]}]}}`

func newMemWorld(t *testing.T) *memWorld {
	n := meshtest.New(t, ordersToPayments)
	w := &memWorld{t: t, net: n, network: &memNetwork{Network: n.Network()}, client: new(changingSource), server: new(changingSource)}
	w.renew(w.client, "orders", true)
	w.renew(w.server, "payments", true)
	w.payments = n.JoinConfig(t, mesh.Config{Service: "payments", Identity: w.server})
	w.orders = n.JoinConfig(t, mesh.Config{Service: "orders", Identity: w.client, Network: w.network})
	var err error
	if w.ln, err = w.payments.Listen(t.Context(), "tcp", ":0"); err != nil {
		t.Fatal(err)
	}
	serveEcho(w.ln, func(net.Conn) {})
	return w
}

// listen has payments listen at another port.
func (w *memWorld) listen(port string) net.Listener {
	w.t.Helper()
	ln, err := w.payments.Listen(w.t.Context(), "tcp", ":0", mesh.ListenOptions{Port: port})
	if err != nil {
		w.t.Fatal(err)
	}
	return ln
}

func (w *memWorld) renew(s *changingSource, service string, bundle bool) {
	w.t.Helper()
	src := w.net.Identity(w.t, service)
	svid, err := src.GetX509SVID()
	if err != nil {
		w.t.Fatal(err)
	}
	s.set(svid, nil)
	if bundle {
		b, err := src.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
		if err != nil {
			w.t.Fatal(err)
		}
		s.set(nil, b.Clone())
	}
}

// serveEcho echoes each connection, after begin, until the listener is closed.
func serveEcho(ln net.Listener, begin func(net.Conn)) {
	testserve.Each(ln, func(c net.Conn) {
		begin(c)
		testserve.Echo(c)
	})
}

// expect calls, and checks whether that needs a handshake.
func (w *memWorld) expect(handshake bool) {
	w.t.Helper()
	before := w.orders.Stats().Reused
	if err := call(w.t.Context(), w.orders, "payments"); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
	if got := w.orders.Stats().Reused == before; got != handshake {
		w.t.Errorf("handshake: %v, want %v", got, handshake)
	}
}

// bubble runs f in a bubble, with a connection that waits to be used again.
func bubble(t *testing.T, f func(t *testing.T, w *memWorld)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		defer w.payments.Close()
		defer w.orders.Close()
		w.expect(true)
		w.expect(false)
		f(t, w)
	})
}

// Each of these is a reason not to trust an old connection any more.
func TestNoReuseAfterAnEvent(t *testing.T) {
	for name, event := range map[string]func(w *memWorld){
		"rules":                  func(w *memWorld) { w.net.SetRules(w.t, ordersToPayments) },
		"the client's identity":  func(w *memWorld) { w.renew(w.client, "orders", false) },
		"the server's identity":  func(w *memWorld) { w.renew(w.server, "payments", false) },
		"whom the client trusts": func(w *memWorld) { w.renew(w.client, "orders", true) },
		"whom the server trusts": func(w *memWorld) { w.renew(w.server, "payments", true) },
		"a crash":                func(w *memWorld) { w.net.Kill(w.t, w.payments); w.restart() },
		"a cut":                  func(w *memWorld) { w.net.SetRules(w.t); synctest.Wait(); w.net.SetRules(w.t, ordersToPayments) },
		"a minute of silence":    func(*memWorld) { <-time.After(61 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *memWorld) {
				event(w)
				synctest.Wait()
				w.expect(true)
				w.expect(false)
			})
		})
		t.Run(name+", of brief streams", func(t *testing.T) {
			bubble(t, func(t *testing.T, w *memWorld) {
				if err := briefly(t.Context(), w.orders, "payments", 5); err != nil {
					t.Fatal(err)
				}
				event(w)
				synctest.Wait()
				w.expect(true)
				w.expect(false)
			})
		})
	}
	t.Run("a change that nobody has processed, of brief streams", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *memWorld) {
			if err := briefly(t.Context(), w.orders, "payments", 5); err != nil {
				t.Fatal(err)
			}
			w.net.SetRules(t, ordersToPayments) // at once
			w.expect(true)
		})
	})
	t.Run("a change that nobody has processed", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *memWorld) {
			w.net.SetRules(w.t, ordersToPayments) // at once
			w.expect(true)
		})
	})
	t.Run("during a connection", func(t *testing.T) {
		bubble(t, func(t *testing.T, w *memWorld) {
			c, err := w.orders.Dial(t.Context(), "tcp", "payments")
			if err != nil {
				t.Fatal(err)
			}
			w.renew(w.client, "orders", false)
			if err := ping(c); err != nil {
				t.Error(err)
			}
			c.Close()
			synctest.Wait()
			w.expect(true)
		})
	})
}

// What a server said of a link is heard, even if that was all at once and long ago.
func TestGoodbyeBehindAClose(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		only := w.net.JoinConfig(t, mesh.Config{Service: "orders", Policy: policy.AuthorizerFunc(nil)}) // it hears of no change
		for range 2 {
			c, err := only.Dial(t.Context(), "tcp", "payments")
			if err != nil {
				t.Fatal(err)
			}
			if err := ping(c); err != nil {
				t.Fatal(err)
			}
			c.Close()
			synctest.Wait()
			w.net.SetRules(t, ordersToPayments)
			<-time.After(990 * time.Millisecond) // before anybody sweeps
		}
		if n := only.Stats().Reused; n != 0 {
			t.Errorf("%d connections were used again", n)
		}
	})
}

func (w *memWorld) restart() {
	w.t.Helper()
	w.payments = w.net.JoinConfig(w.t, mesh.Config{Service: "payments", Identity: w.server})
	ln, err := w.payments.Listen(w.t.Context(), "tcp", ":0")
	if err != nil {
		w.t.Fatal(err)
	}
	serveEcho(ln, func(net.Conn) {})
}

func TestReuseAfterAPause(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		for _, pause := range []time.Duration{time.Millisecond, time.Second, 30 * time.Second, 59 * time.Second} {
			<-time.After(pause)
			w.expect(false)
		}
	})
}

// A server that vanished without a word is found out before the application has a connection to it.
func TestDeadLinkIsNotHandedOut(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		<-time.After(2 * time.Second)
		w.net.Freeze(w.t, w.payments)
		w.payments = w.net.Join(w.t, "payments")
		ln, err := w.payments.Listen(t.Context(), "tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		serveEcho(ln, func(net.Conn) {})
		w.expect(true)
	})
}

func TestServerSpeaksFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		defer w.payments.Close()
		defer w.orders.Close()
		ln := w.listen("greeting")
		accepted := make(chan struct{}, 10)
		serveEcho(ln, func(c net.Conn) {
			accepted <- struct{}{}
			_, _ = io.WriteString(c, "hello")
		})
		for i := range 4 {
			c, err := w.orders.Dial(t.Context(), "tcp", "payments:greeting")
			if err != nil {
				t.Fatal(err)
			}
			if i == 3 { // silent: the server hears of it nevertheless
				<-accepted
				accepted <- struct{}{}
			}
			b := make([]byte, 5)
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
				t.Fatalf("%d: read %q, %v", i, b, err)
			}
			<-accepted
			c.Close()
			synctest.Wait()
		}
		if n := w.orders.Stats().Reused; n != 3 {
			t.Errorf("%d connections were used again, want 3", n)
		}
		c, err := w.orders.Dial(t.Context(), "tcp", "payments:greeting")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		<-accepted // even of one that said nothing at all
	})
}

// A refusal of a reused connection is told as that of a new one.
func TestDeniedReused(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		c, err := w.orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		w.net.SetRules(t) // before the server has heard of it
		var d *mesh.DeniedError
		if err := ping(c); !errors.As(err, &d) || d.Version != 2 {
			t.Errorf("ping: %v, want a *DeniedError", err)
		}
	})
}

// What the application does with a connection that was closed must not touch the next one.
func TestClosedConnLeavesTheNextAlone(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		old, err := w.orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		if err := ping(old); err != nil {
			t.Fatal(err)
		}
		reading := make(chan error)
		go func() {
			_, err := old.Read(make([]byte, 1))
			reading <- err
		}()
		synctest.Wait()
		old.Close()
		if err := <-reading; !errors.Is(err, net.ErrClosed) {
			t.Errorf("a Read in progress: %v", err)
		}
		synctest.Wait()
		c, err := w.orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, rerr := old.Read(make([]byte, 1))
		_, werr := old.Write([]byte("x"))
		for _, err := range []error{rerr, werr, old.Close(), old.SetDeadline(time.Unix(1, 0)), old.(interface{ CloseWrite() error }).CloseWrite()} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("on a closed connection: %v", err)
			}
		}
		if err := ping(c); err != nil {
			t.Error(err)
		}
		if n := w.network.dials.Load(); n != 1 {
			t.Errorf("%d handshakes: the test proves nothing", n)
		}
	})
}

// An application that takes its time after the end of a connection holds up no other.
func TestSlowCloseHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		defer w.payments.Close()
		defer w.orders.Close()
		ln := w.listen("slow")
		testserve.Each(ln, func(c net.Conn) {
			_, _ = io.Copy(c, c)
			<-time.After(time.Hour)
			_ = c.Close()
		})
		start := time.Now()
		for range 20 {
			c, err := w.orders.Dial(t.Context(), "tcp", "payments:slow")
			if err != nil {
				t.Fatal(err)
			}
			if err := ping(c); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("20 calls took %v", took)
		}
		<-time.After(2 * time.Hour)
	})
}

// Nothing that waits to be used again holds up an end.
func TestShutdownWithIdleLinks(t *testing.T) {
	for name, end := range map[string]func(*memWorld) error{
		"listener": func(w *memWorld) error { return w.ln.Close() },
		"client":   func(w *memWorld) error { return w.orders.Close() },
		"server":   func(w *memWorld) error { return w.payments.Close() },
		"shutdown": func(w *memWorld) error { return w.payments.Shutdown(w.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *memWorld) {
				start := time.Now()
				if err := end(w); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > 600*time.Millisecond { // Shutdown keeps accepting for 500 ms
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}
