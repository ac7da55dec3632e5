package mesh_test

import (
	"context"
	"errors"
	"fmt"
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

// lanePrice is how many requests over HTTP/2 pay for a connection over HTTP/1.1.
const lanePrice = 64

func sayProto(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }

// laned is a client that has earned a lane to the only instance of payments.
func laned(t *testing.T, n *meshtest.Net, h http.HandlerFunc) (*counted, *mesh.Mesh) {
	t.Helper()
	a := serveCounted(t, n, 0, h)
	orders := n.Join(t, "orders")
	for range lanePrice {
		get(t, orders.HTTPClient(), "http://payments/")
	}
	a.wantOpen(t, "after as many requests as a lane costs", 2)
	return a, orders
}

func TestLaneIsEarnedAndUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		a, orders := laned(t, n, sayProto)
		c := orders.HTTPClient()
		for range 3 * lanePrice { // one after the other never needs a second
			if got := get(t, c, "http://payments/"); got != "HTTP/1.1" {
				t.Fatalf("GET came over %s", got)
			}
		}
		a.wantOpen(t, "later", 2)

		for name, change := range map[string]func(*http.Request){
			"POST":             func(r *http.Request) { r.Method = http.MethodPost },
			"a body":           func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("x")), 1 },
			"TE":               func(r *http.Request) { r.Header.Set("TE", "trailers") },
			"Expect":           func(r *http.Request) { r.Header.Set("Expect", "100-continue") },
			"Connection":       func(r *http.Request) { r.Header.Set("Connection", "close") },
			"a spelling":       func(r *http.Request) { r.Header["transfer-encoding"] = []string{"chunked"} },
			"a length":         func(r *http.Request) { r.Header["content-length"] = []string{"5"} },
			"Close":            func(r *http.Request) { r.Close = true },
			"trailers to come": func(r *http.Request) { r.Trailer = http.Header{"X": nil} },
		} {
			req := newRequest(t, http.MethodGet, "http://payments/", nil)
			change(req)
			if got, err := do(c, req); err != nil || got != "HTTP/2.0" {
				t.Errorf("a request with %s came over %s, %v", name, got, err)
			}
		}
		for name, change := range map[string]func(*http.Request){
			"HEAD":               func(r *http.Request) { r.Method = http.MethodHead },
			"an Idempotency-Key": func(r *http.Request) { r.Method = http.MethodPost; r.Header.Set("Idempotency-Key", "7") },
		} {
			req := newRequest(t, http.MethodGet, "http://payments/", nil)
			change(req)
			resp, err := c.Do(req)
			if err != nil || resp.ProtoMajor != 1 {
				t.Errorf("a request with %s: %v, %v", name, resp, err)
				continue
			}
			_ = resp.Body.Close()
		}
		pass(125 * time.Second)
		a.wantOpen(t, "unused for 125 s", 0)
	})
}

// As many requests as are under way at a time soon have a lane each.
func TestLanesFollowTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		a := serveCounted(t, n, 0, func(http.ResponseWriter, *http.Request) { pass(time.Millisecond) })
		client := n.Join(t, "orders").HTTPClient()
		for range 10 * lanePrice {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					if _, err := tryGet(t.Context(), client, "http://payments/"); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}
		a.wantOpen(t, "in the end", 1+10)
	})
}

// A server of HTTP/2 alone is asked once whether it speaks HTTP/1.1.
func TestNoLaneToHTTP2Alone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		a := serveCounted(t, n, 0, sayProto, "h2")
		slow := &slowNetwork{Network: n.Network()}
		c := n.JoinConfig(t, mesh.Config{Service: "orders", Network: slow}).HTTPClient()
		for range 5 * lanePrice {
			if got := get(t, c, "http://payments/"); got != "HTTP/2.0" {
				t.Fatal(got)
			}
		}
		a.wantOpen(t, "in the end", 1)
		if got := slow.dials.Load(); got != 2 {
			t.Errorf("dialed %d times, want 2", got)
		}
	})
}

// Lanes that break at once get more and more expensive.
func TestLanesThatBreak(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"the server closes": func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 1 {
				w.Header().Set("Connection", "close")
			}
		},
		"in the middle of a request": func(_ http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 1 {
				panic(http.ErrAbortHandler)
			}
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.New(t, meshtest.Allow("payments", "orders"))
				slow := &slowNetwork{Network: n.Network()}
				serveCounted(t, n, 0, h)
				c := n.JoinConfig(t, mesh.Config{Service: "orders", Network: slow}).HTTPClient()
				for range 25 * lanePrice {
					get(t, c, "http://payments/")
				}
				if got := slow.dials.Load(); got != 1+3 { // after 1, 5 and 21 times the price
					t.Errorf("dialed %d times, want 4", got)
				}
			})
		})
	}
}

// A request whose lane breaks is repeated over HTTP/2, which tells what is wrong; the endpoint is not to blame.
func TestBrokenLaneBlamesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		var panics atomic.Int32
		_, orders := laned(t, n, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/panic" {
				panics.Add(1)
				panic(http.ErrAbortHandler)
			}
		})
		if _, err := tryGet(t.Context(), orders.HTTPClient(), "http://payments/panic"); err == nil || panics.Load() != 2 {
			t.Errorf("%v after %d panics, want an error after 2", err, panics.Load())
		}
		get(t, orders.HTTPClient(), "http://payments/")
	})
}

// vanishing is a network from which what was dialed first can vanish without a word.
type vanishing struct {
	mesh.Network
	slow *slowNetwork
	gone atomic.Pointer[string]
	last atomic.Pointer[string]
}

func (v *vanishing) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if gone := v.gone.Load(); gone != nil && *gone == address {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	v.last.Store(&address)
	return v.slow.DialContext(ctx, network, address)
}

// A peer that vanishes is noticed on a lane as well, and the request made elsewhere.
func TestLaneNoticesAVanishedPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		a := serveCounted(t, n, 0, sayProto)
		v := &vanishing{Network: n.Network(), slow: &slowNetwork{Network: n.Network()}}
		c := n.JoinConfig(t, mesh.Config{Service: "orders", Network: v}).HTTPClient()
		for range lanePrice {
			get(t, c, "http://payments/")
		}
		a.wantOpen(t, "with a lane", 2)
		v.slow.freeze()
		v.gone.Store(v.last.Load())
		got := make(chan string, 1)
		start := time.Now()
		go func() {
			body, err := tryGet(t.Context(), c, "http://payments/")
			got <- fmt.Sprint(body, err)
		}()
		synctest.Wait()
		serveCounted(t, n, 0, sayProto)
		if s, took := <-got, time.Since(start); s != "HTTP/2.0<nil>" || took > 30*time.Second {
			t.Errorf("%s after %v", s, took)
		}
	})
}

// A request that takes long on a lane is left alone while the endpoint is well.
func TestLaneWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		a, orders := laned(t, n, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/long" {
				select {
				case <-time.After(10 * time.Minute):
				case <-r.Context().Done():
				}
			}
			sayProto(w, r)
		})
		if got := get(t, orders.HTTPClient(), "http://payments/long"); got != "HTTP/1.1" {
			t.Error(got)
		}
		a.wantOpen(t, "after ten minutes", 2)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := tryGet(ctx, orders.HTTPClient(), "http://payments/long"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if got := get(t, orders.HTTPClient(), "http://payments/"); got != "HTTP/2.0" {
			t.Errorf("after a request that was given up: %s", got)
		}
	})
}

// An endpoint that is withdrawn loses its lanes.
func TestLanesFollowDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		leaving, orders := laned(t, n, sayProto)
		serveCounted(t, n, 0, sayProto)
		leaving.ln.Close()
		get(t, orders.HTTPClient(), "http://payments/")
		leaving.wantOpen(t, "withdrawn", 0)
	})
}
