package mesh_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
)

// hanging is an instance whose requests hang until it is closed, as a crash would end them.
type hanging struct {
	*mesh.Mesh
	arrived chan struct{}
}

func (w *world) serveHanging() *hanging {
	w.t.Helper()
	h := &hanging{w.join("payments"), make(chan struct{}, 100)}
	w.serveHTTP(h.Mesh, func(_ http.ResponseWriter, r *http.Request) {
		h.arrived <- struct{}{}
		<-r.Context().Done()
	})
	return h
}

func TestTransportCrashFailsNoIdempotentRequest(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	crashing := w.serveHanging()
	w.serveAs("alive")
	c := w.join("orders").HTTPClient()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			req := newRequest(t, http.MethodGet, "http://payments/", nil)
			if i%2 == 0 {
				req = newRequest(t, http.MethodPost, "http://payments/", strings.NewReader("body"))
				req.Header.Set("Idempotency-Key", fmt.Sprint(i))
			}
			if got, err := do(c, req); err != nil || got != "alive" {
				t.Errorf("%s: %q, %v", req.Method, got, err)
			}
		})
	}
	<-crashing.arrived
	crashing.Close()
	wg.Wait()
	if got := get(t, c, "http://payments/"); got != "alive" { // and nobody asks the dead one again
		t.Error(got)
	}
}

func TestTransportDoesNotRepeatWhatMayHaveHappened(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	crashing := w.serveHanging()
	c := w.join("orders").HTTPClient()
	failed := make(chan error, 1)
	go func() {
		_, err := do(c, newRequest(t, http.MethodPost, "http://payments/", strings.NewReader("charge once")))
		failed <- err
	}()
	<-crashing.arrived
	w.serveAs("alive")
	crashing.Close()
	if err := <-failed; err == nil {
		t.Error("a POST that had been delivered was sent again")
	} else if !strings.Contains(err.Error(), "mesh: payments at 127.0.0.1:") {
		t.Errorf("the error does not say who failed: %v", err)
	}
}

// deadAddr returns an address at which connections are refused.
func deadAddr(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return addrOf(ln)
}

func (w *world) announce(instance string, addr netip.AddrPort) {
	w.t.Helper()
	err := w.names.Member(instance).Register(w.t.Context(), discovery.Endpoint{Service: "payments", Addr: addr})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestTransportFailsOverWhatWasNotDelivered(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	for i := range 6 {
		w.announce(fmt.Sprint("dead", i), deadAddr(t))
	}
	impostor := w.listen(w.join("impostor")) // proves to be another service
	w.announce("impostor", addrOf(impostor))
	go func() {
		for {
			if _, err := impostor.Accept(); err != nil {
				return
			}
		}
	}()
	payments := w.join("payments")
	w.serveHTTP(payments, func(rw http.ResponseWriter, r *http.Request) { _, _ = io.Copy(rw, r.Body) })
	c := w.join("orders").HTTPClient()
	for range 10 {
		pr, pw := io.Pipe() // can't be rewound
		go func() {
			fmt.Fprint(pw, "hello")
			pw.Close()
		}()
		if got, err := do(c, newRequest(t, http.MethodPost, "http://payments/", pr)); err != nil || got != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

func TestTransportAllEndpointsDead(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		w.announce(fmt.Sprint("dead", i), deadAddr(t))
	}
	_, err := tryGet(t.Context(), w.join("orders").HTTPClient(), "http://payments/")
	var de *mesh.DialError
	if !errors.As(err, &de) || de.Service != "payments" || de.Attempts != 3 || de.Addr == "" {
		t.Errorf("%v: %+v, want a DialError after 3 attempts", err, de)
	}
}

// Servers close idle HTTP/1.1 connections whenever they like, also at the moment the next request is on its way.
func TestTransportStaleConnection(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	var conns sync.Map
	var posts atomic.Int32
	payments := w.join("payments")
	w.serveOn(payments, w.listen(payments, mesh.ListenOptions{ALPN: []string{"http/1.1"}}), func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			posts.Add(1)
		}
		if _, second := conns.LoadOrStore(r.RemoteAddr, true); second {
			panic(http.ErrAbortHandler) // closes the connection
		}
		fmt.Fprint(rw, "first")
	})
	c := w.join("orders").HTTPClient()
	for range 5 {
		if got := get(t, c, "http://payments/"); got != "first" {
			t.Fatal(got)
		}
	}
	if _, err := do(c, newRequest(t, http.MethodPost, "http://payments/", nil)); err == nil || posts.Load() != 1 {
		t.Errorf("POST: %v, delivered %d times, want an error and 1", err, posts.Load())
	}
}

func TestTransportDoesNotRepeatPanics(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	var n atomic.Int32
	for range 2 {
		w.serveHTTP(w.join("payments"), func(http.ResponseWriter, *http.Request) {
			n.Add(1)
			panic(http.ErrAbortHandler)
		})
	}
	_, err := tryGet(t.Context(), w.join("orders").HTTPClient(), "http://payments/")
	if err == nil || n.Load() != 1 {
		t.Errorf("error %v after %d requests, want one request", err, n.Load())
	}
}

func TestTransportCallersBodyFails(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	w.serveHTTP(w.join("payments"), func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	pr, pw := io.Pipe()
	cause := errors.New("disk is gone")
	pw.CloseWithError(cause)
	_, err := do(w.join("orders").HTTPClient(), newRequest(t, http.MethodPost, "http://payments/", pr))
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want the body's error", err)
	}
}

// With many old connections that the server has closed, a request must not be used up on finding that out of each.
func TestTransportManyStaleConnections(t *testing.T) {
	const n = 6
	w := newWorld(t, ordersMayCallPayments)
	var conns sync.Map
	var first sync.WaitGroup
	first.Add(n)
	payments := w.join("payments")
	w.serveOn(payments, w.listen(payments, mesh.ListenOptions{ALPN: []string{"http/1.1"}}), func(_ http.ResponseWriter, r *http.Request) {
		if _, second := conns.LoadOrStore(r.RemoteAddr, true); second {
			panic(http.ErrAbortHandler)
		}
		if r.URL.Path == "/first" {
			first.Done()
			first.Wait()
		}
	})
	c := w.join("orders").HTTPClient()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if _, err := tryGet(t.Context(), c, "http://payments/first"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	get(t, c, "http://payments/")
}

// An endpoint that serves raw connections alone is well, although no request can use it.
func TestTransportLeavesRawEndpointsAlone(t *testing.T) {
	w := newWorld(t, ordersMayCallPayments)
	raw := w.listen(w.join("payments"), mesh.ListenOptions{ALPN: []string{"mesh/2"}})
	accepted := make(chan struct{}, 1)
	go func() {
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			c.Close()
			select {
			case accepted <- struct{}{}:
			default:
			}
		}
	}()
	w.serveAs("web")
	orders := w.join("orders")
	for range 10 {
		if got := get(t, orders.HTTPClient(), "http://payments/"); got != "web" {
			t.Fatal(got)
		}
	}
	for range 50 {
		c, err := orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		select {
		case <-accepted:
			return
		default:
		}
	}
	t.Error("50 raw connections avoided the endpoint that serves them")
}
