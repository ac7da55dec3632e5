package mesh_test

import (
	"context"
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
	"github.com/intramesh/mesh/internal/testserve"
	"github.com/intramesh/mesh/meshtest"
)

// How long an instance of payments takes that is well, and one that is not.
const (
	wellTakes    = 2 * time.Millisecond
	failureTakes = 50 * time.Microsecond
)

// askAll makes requests for a second, sixteen at a time, and returns how many.
func askAll(request func()) int {
	var asked atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(time.Second)
	for range 16 {
		wg.Go(func() {
			for time.Now().Before(end) {
				asked.Add(1)
				request()
			}
		})
	}
	wg.Wait()
	return int(asked.Load())
}

// wantFew fails unless the failing one of three was asked a few times, and all of them as often as two can answer.
func wantFew(t *testing.T, asked int, failing int64) {
	t.Helper()
	if failing == 0 || failing > int64(asked)/20 {
		t.Errorf("of %d requests %d went to the one of three that fails", asked, failing)
	}
	if asked < 4000 {
		t.Errorf("%d requests in a second, sixteen at a time, of 2 ms", asked)
	}
}

func TestFailuresAttractNoRequests(t *testing.T) {
	for name, fail := range map[string]http.HandlerFunc{
		"503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"429": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
		"reset": func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		},
		"reset after the header": func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var failed atomic.Int64
				n := meshtest.New(t, meshtest.Allow("payments", "orders"))
				serveCounted(t, n, 0, func(w http.ResponseWriter, r *http.Request) {
					failed.Add(1)
					pass(failureTakes)
					fail(w, r)
				})
				askHTTP(t, n, &failed)
			})
		})
	}
}

// askHTTP adds two instances that are well and a client, by whose answers it looks at how often the third was asked.
func askHTTP(t *testing.T, n *meshtest.Net, failed *atomic.Int64) {
	t.Helper()
	for range 2 {
		serveCounted(t, n, 0, func(http.ResponseWriter, *http.Request) { pass(wellTakes) })
	}
	c := n.Join(t, "orders").HTTPClient()
	asked := askAll(func() {
		_, _ = tryGet(t.Context(), c, "http://payments/")
	})
	wantFew(t, asked, failed.Load())
}

// An instance that lags behind a change of the rules denies what the others allow.
func TestDenialsAttractNoRequests(t *testing.T) {
	for name, rs := range map[string][]rule{"each request": {{from: "orders", to: "payments", path: "/other"}}, "the connection": nil} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.New(t, meshtest.Allow("payments", "orders"))
				late := &rules{changed: make(chan struct{})}
				late.set(rs...)
				m := n.JoinConfig(t, mesh.Config{Service: "payments", Policy: late})
				ln, err := m.Listen(t.Context(), "tcp", ":0")
				if err != nil {
					t.Fatal(err)
				}
				serveUntilEnd(t, &http.Server{Handler: m.Handler(http.HandlerFunc(ok)), ReadHeaderTimeout: time.Minute}, ln)
				for range 2 {
					serveCounted(t, n, 0, func(http.ResponseWriter, *http.Request) { pass(wellTakes) })
				}
				c := n.Join(t, "orders").HTTPClient()
				var denied atomic.Int64
				asked := askAll(func() {
					resp, err := c.Do(newRequest(t, http.MethodGet, "http://payments/", nil))
					if err != nil {
						t.Error(err)
						return
					}
					_ = resp.Body.Close()
					if resp.StatusCode == http.StatusForbidden {
						pass(failureTakes)
						denied.Add(1)
					}
				})
				wantFew(t, asked, denied.Load())
			})
		})
	}
}

// Raw connections: to one instance they break, end or are denied at once.
func TestFailuresAttractNoDials(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"closes":  func(c net.Conn) { _ = c.Close() },
		"is lost": func(c net.Conn) { _ = c.(interface{ NetConn() net.Conn }).NetConn().Close() },
		"denies":  nil,
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.New(t, meshtest.Allow("payments", "orders"))
				var failed atomic.Int64
				bad := mesh.Config{Service: "payments"}
				if serve == nil {
					late := &rules{changed: make(chan struct{})}
					late.set()
					bad.Policy = late
				}
				acceptAll(t, n.JoinConfig(t, bad), func(c net.Conn) {
					pass(failureTakes)
					serve(c)
				})
				for range 2 {
					acceptAll(t, n.Join(t, "payments"), func(c net.Conn) {
						defer c.Close()
						pass(wellTakes)
						_, _ = c.Write([]byte("done"))
					})
				}
				orders := n.Join(t, "orders")
				asked := askAll(func() {
					c, err := orders.Dial(t.Context(), "tcp", "payments")
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					if b, err := io.ReadAll(c); err != nil || string(b) != "done" {
						pass(failureTakes)
						failed.Add(1)
					}
				})
				wantFew(t, asked, failed.Load())
			})
		})
	}
}

// acceptAll serves raw connections until the test ends.
func acceptAll(t *testing.T, m *mesh.Mesh, serve func(net.Conn)) {
	t.Helper()
	ln, err := m.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	wait := testserve.Each(ln, serve)
	t.Cleanup(func() {
		_ = ln.Close()
		wait()
	})
}

// A caller that gives up says nothing about the endpoint; one whose time is up does.
func TestGivingUpAndHanging(t *testing.T) {
	for _, hurry := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := meshtest.New(t, meshtest.Allow("payments", "orders"))
			var hung, well atomic.Int64
			h := func(asked *atomic.Int64) http.HandlerFunc {
				return func(_ http.ResponseWriter, r *http.Request) {
					asked.Add(1)
					<-r.Context().Done()
				}
			}
			serveCounted(t, n, 0, h(&hung))
			serveCounted(t, n, 0, func(w http.ResponseWriter, r *http.Request) {
				if hurry {
					well.Add(1)
					return
				}
				h(&well)(w, r)
			})
			c := n.Join(t, "orders").HTTPClient()
			for range 200 {
				ctx, cancel := context.WithCancel(t.Context())
				if hurry {
					ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
				} else {
					time.AfterFunc(10*time.Millisecond, cancel)
				}
				_, _ = tryGet(ctx, c, "http://payments/")
				cancel()
			}
			switch got := hung.Load(); {
			case hurry && got > 20:
				t.Errorf("%d requests of 200 went to an endpoint that hangs", got)
			case !hurry && (got < 50 || got > 150):
				t.Errorf("%d requests of 200 went to one of two that are alike", got)
			}
		})
	}
}
