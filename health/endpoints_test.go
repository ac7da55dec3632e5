package health_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/health"
	"github.com/intramesh/mesh/internal/testserve"
	"github.com/intramesh/mesh/meshtest"
)

// instance serves payments; its health is what is set.
type instance struct {
	ill            atomic.Bool
	calls, checked atomic.Int32
}

func (i *instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/healthz" {
		i.calls.Add(1)
		return
	}
	i.checked.Add(1)
	if i.ill.Load() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func serve(t *testing.T, n *meshtest.Net) *instance {
	t.Helper()
	m := n.Join(t, "payments")
	ln, err := m.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	i := new(instance)
	srv := &http.Server{Handler: m.Handler(i), ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return i
}

// share makes 60 calls, and returns how many each instance got.
func share(t *testing.T, m *mesh.Mesh, all ...*instance) []int32 {
	t.Helper()
	for range 60 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://payments/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := m.Transport().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
	got := make([]int32, len(all))
	for i, s := range all {
		got[i] = s.calls.Swap(0)
	}
	return got
}

// TestEndpoints: an instance that takes requests and says that it is ill gets none, until it says otherwise.
func TestEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		a, b := serve(t, n), serve(t, n)
		orders := n.Join(t, "orders")
		a.ill.Store(true)
		stop, err := health.Endpoints(orders, "payments", health.Get("/healthz"), health.Config{Interval: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		both := func(when string) {
			t.Helper()
			if got := share(t, orders, a, b); got[0] < 10 || got[1] < 10 {
				t.Errorf("%s: %v", when, got)
			}
		}
		both("before")
		pass(5 * time.Second)
		if got := share(t, orders, a, b); got[0] != 0 {
			t.Errorf("one is ill: %v", got)
		}
		b.ill.Store(true)
		pass(5 * time.Second)
		share(t, orders, a, b) // all are ill: better than nobody
		a.ill.Store(false)
		b.ill.Store(false)
		pass(4 * time.Second)
		both("both are well again")
		a.checked.Store(0)
		pass(10 * time.Second)
		if k := a.checked.Load(); k < 8 || k > 12 {
			t.Errorf("%d checks of one in ten intervals", k)
		}
		a.ill.Store(true)
		pass(5 * time.Second)
		stop()
		stop()
		a.checked.Store(0)
		both("stopped")
		pass(time.Minute)
		if k := a.checked.Load(); k != 0 {
			t.Errorf("%d checks after stop", k)
		}
	})
}

// TestDenialIsNoIllness: who may not ask learns nothing, and says so once.
func TestDenialIsNoIllness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, `{"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "root"}, "spec": {"service": "payments",
			"action": "allow", "rules": [{"from": [{"services": ["orders"]}], "to": [{"paths": ["/"]}]}]}}`)
		a, b := serve(t, n), serve(t, n)
		var log bytes.Buffer
		orders := n.JoinConfig(t, mesh.Config{Service: "orders", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		stop, err := health.Endpoints(orders, "payments", health.Get("/healthz"), health.Config{Interval: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		pass(20 * time.Second)
		if got := share(t, orders, a, b); got[0] < 10 || got[1] < 10 || a.checked.Load() != 0 {
			t.Errorf("%v", got)
		}
		stop()
		if k := strings.Count(log.String(), "deny health checks"); k != 1 {
			t.Errorf("said %d times: %s", k, &log)
		}
	})
}

// TestConnect: a raw port, and an instance that is gone without a word.
func TestConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		var all []*mesh.Mesh
		for range 2 {
			m := n.Join(t, "payments")
			ln, err := m.Listen(t.Context(), "tcp", ":0")
			if err != nil {
				t.Fatal(err)
			}
			wait := testserve.Each(ln, testserve.Echo)
			t.Cleanup(func() {
				_ = ln.Close()
				wait()
			})
			all = append(all, m)
		}
		orders := n.Join(t, "orders")
		stop, err := health.Endpoints(orders, "payments", health.Connect, health.Config{Interval: time.Second, Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		pass(3 * time.Second)
		thaw := n.Freeze(t, all[0])
		pass(10 * time.Second)
		dial := func() (slow bool) {
			start := time.Now()
			c, err := orders.Dial(t.Context(), "tcp", "payments")
			if err != nil {
				t.Fatal(err)
			}
			_ = c.Close()
			return time.Since(start) > 500*time.Millisecond
		}
		for range 20 {
			if dial() {
				t.Fatal("a dial went to the one that is frozen")
			}
		}
		thaw()
	})
}

func TestRefusedEndpoints(t *testing.T) {
	m := meshtest.New(t).Join(t, "orders")
	for address, p := range map[string]health.Prober{
		"pay ments": health.Connect, "a": health.Get("healthz"), "b": health.Get("http://elsewhere/"), "c": health.Get("//elsewhere/x"), "d": health.Get(""),
	} {
		if _, err := health.Endpoints(m, address, p, health.Config{}); err == nil {
			t.Errorf("%s is taken", address)
		}
	}
}

// probe is one of a fleet.
type probe struct {
	fleet *fleet
	addr  netip.AddrPort
}

type fleet struct {
	mu      sync.Mutex
	ill     map[netip.AddrPort]bool
	asked   map[netip.AddrPort][]time.Time
	running int
	most    int
	open    int
}

func (p probe) Check(ctx context.Context) error {
	f := p.fleet
	f.mu.Lock()
	f.asked[p.addr] = append(f.asked[p.addr], time.Now())
	f.running++
	f.most = max(f.most, f.running)
	ill := f.ill[p.addr]
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running--
	}()
	if ill {
		<-ctx.Done()
		return errors.New("ill")
	}
	return nil
}

func (p probe) Close() {
	p.fleet.mu.Lock()
	defer p.fleet.mu.Unlock()
	p.fleet.open--
}

// TestManyEndpoints: of many, so many are asked as the rate allows, those in doubt as often as few would be; what discovery drops
// is let go.
func TestManyEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 1000
		var eps []discovery.Endpoint
		for i := range many {
			eps = append(eps, discovery.Endpoint{
				Service: "payments", Instance: fmt.Sprint(i), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1),
			})
		}
		eps = append(eps, discovery.Endpoint{Service: "payments", Instance: "d", State: discovery.Draining, Addr: netip.MustParseAddrPort("10.2.0.1:1")},
			discovery.Endpoint{Service: "payments", Instance: "p", Port: "admin", Addr: netip.MustParseAddrPort("10.2.0.2:1")})
		list := static.New(eps...)
		f := &fleet{ill: map[netip.AddrPort]bool{eps[7].Addr: true}, asked: make(map[netip.AddrPort][]time.Time)}
		orders := meshtest.New(t).JoinConfig(t, mesh.Config{Service: "orders", Discovery: list})
		stop, err := health.Endpoints(orders, "payments", func(*mesh.Mesh, string) (func(netip.AddrPort) health.Probe, error) {
			return func(addr netip.AddrPort) health.Probe {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.open++
				return probe{f, addr}
			}, nil
		}, health.Config{})
		if err != nil {
			t.Fatal(err)
		}
		pass(250 * time.Second)
		f.mu.Lock()
		total := 0
		for _, at := range f.asked {
			total += len(at)
		}
		ill := f.asked[eps[7].Addr]
		for i := 2; i < len(ill); i++ {
			if d := ill[i].Sub(ill[i-1]); d < 4*time.Second || d > 6*time.Second {
				t.Errorf("the one in doubt was asked again after %v", d)
			}
		}
		if len(f.asked) != many || len(ill) < 25 || total < 2250 || total > 2750 || f.most > 2 {
			t.Errorf("%d of %d asked, %d times in all, %d the one in doubt, at most %d at one time", len(f.asked), many, total, len(ill), f.most)
		}
		if f.open != many {
			t.Errorf("%d probes", f.open)
		}
		f.mu.Unlock()
		list.Set(eps[5:10]...)
		pass(6 * time.Second)
		f.mu.Lock()
		if f.open != 5 {
			t.Errorf("%d probes, want 5", f.open)
		}
		f.mu.Unlock()
		stop()
		if f.open != 0 {
			t.Errorf("%d probes after stop", f.open)
		}
	})
}
