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

// A delayed network is slow to connect. It counts how many connections are made, and at most at one time.
type delayed struct {
	mesh.Network
	delay       time.Duration
	now         atomic.Int32
	most, total atomic.Int32
}

func (d *delayed) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.total.Add(1)
	n := d.now.Add(1)
	defer d.now.Add(-1)
	for m := d.most.Load(); n > m; m = d.most.Load() {
		d.most.CompareAndSwap(m, n)
	}
	select {
	case <-time.After(d.delay):
		return d.Network.DialContext(ctx, network, address)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestBurstOverHTTP1: many requests at once make few connections at one time, and no more than serve to have them done sooner.
func TestBurstOverHTTP1(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		var long atomic.Bool
		a := serveCounted(t, n, 0, func(http.ResponseWriter, *http.Request) {
			if long.Load() {
				pass(10 * time.Second)
			}
			pass(time.Millisecond)
		}, "http/1.1")
		slow := &delayed{Network: n.Network(), delay: 10 * time.Millisecond}
		c := n.JoinConfig(t, mesh.Config{Service: "orders", Network: slow}).HTTPClient()
		burst := func(ctx context.Context, size int) (failed int, took time.Duration) {
			start := time.Now()
			var wg sync.WaitGroup
			var bad atomic.Int32
			for range size {
				wg.Go(func() {
					if _, err := tryGet(ctx, c, "http://payments/"); err != nil {
						bad.Add(1)
					}
				})
			}
			wg.Wait()
			return int(bad.Load()), time.Since(start)
		}
		if failed, took := burst(t.Context(), 256); failed > 0 || took > 60*time.Millisecond {
			t.Errorf("%d failed, it took %v", failed, took)
		}
		if slow.most.Load() > 32 || slow.total.Load() > 64 {
			t.Errorf("%d connections, %d at one time", slow.total.Load(), slow.most.Load())
		}
		// Those that give up leave their place to others, and no connection is lost.
		long.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if failed, _ := burst(ctx, 100); failed != 100 {
			t.Errorf("%d of 100 failed", failed)
		}
		cancel()
		if failed, took := burst(t.Context(), 100); failed > 0 || took > 11*time.Second { // each needs one of its own
			t.Errorf("%d failed, it took %v", failed, took)
		}
		if most, total := slow.most.Load(), slow.total.Load(); most > total/2 {
			t.Errorf("%d of %d connections were made at one time", most, total)
		}
		long.Store(false)
		before := slow.total.Load()
		if failed, _ := burst(t.Context(), 75); failed > 0 || slow.total.Load() != before {
			t.Errorf("%d failed, %d more connections though some were free", failed, slow.total.Load()-before)
		}
		// Where nobody answers, nobody waits for the others' turns.
		n.Kill(t, a.Mesh)
		if failed, took := burst(t.Context(), 256); failed != 256 || took > 100*time.Millisecond {
			t.Errorf("%d of 256 failed, it took %v", failed, took)
		}
	})
}

// TestQueueIsFairAndWhole: whatever becomes of requests and connections, each request ends, and no connection is lost or used twice.
func TestQueueIsFairAndWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		rnd := func(most int) int { return int(time.Now().UnixNano()/1000) * 7919 % most }
		a := serveCounted(t, n, 0, func(w http.ResponseWriter, r *http.Request) {
			pass(time.Duration(rnd(5000)) * time.Microsecond)
			if rnd(10) == 0 {
				w.Header().Set("Connection", "close")
			}
			_, _ = io.WriteString(w, r.URL.Path)
		}, "http/1.1")
		slow := &delayed{Network: n.Network(), delay: 2 * time.Millisecond}
		c := n.JoinConfig(t, mesh.Config{Service: "orders", Network: slow}).HTTPClient()
		var wg sync.WaitGroup
		for i := range 24 {
			wg.Go(func() {
				for j := range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					if (i+j)%5 == 0 {
						cancel()
						ctx, cancel = context.WithTimeout(t.Context(), time.Duration(rnd(3000))*time.Microsecond)
					}
					path := "/" + strings.Repeat("x", i+1)
					body, err := tryGet(ctx, c, "http://payments"+path)
					cancel()
					if err == nil && body != path || err != nil && !errors.Is(err, context.DeadlineExceeded) || err != nil && (i+j)%5 != 0 {
						t.Errorf("%s: %q, %v", path, body, err)
					}
					pass(time.Duration(rnd(1000)) * time.Microsecond)
				}
			})
		}
		wg.Wait()
		pass(time.Second) // a connection that nobody waits for any more is made all the same
		c.CloseIdleConnections()
		a.wantOpen(t, "at the end", 0)
	})
}
