package mesh_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/meshtest"
)

// told is a resolver that says what it was told.
type told struct {
	mu      sync.Mutex
	eps     []discovery.Endpoint
	changed chan struct{}
}

func tell(eps ...discovery.Endpoint) *told { return &told{eps: eps, changed: make(chan struct{})} }

func (r *told) Lookup(service string) discovery.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := discovery.Snapshot{Changed: r.changed}
	for _, ep := range r.eps {
		if ep.Service == service {
			s.Endpoints = append(s.Endpoints, ep)
		}
	}
	return s
}

func (r *told) set(eps ...discovery.Endpoint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.eps = eps
	close(r.changed)
	r.changed = make(chan struct{})
}

func TestNoEndpointsSaysWhatIsKnown(t *testing.T) {
	ep := func(port string, s discovery.State) discovery.Endpoint {
		return discovery.Endpoint{Service: "payments", Port: port, Addr: netip.MustParseAddrPort("127.0.0.1:9"), State: s}
	}
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t)
		for _, c := range []struct {
			known []discovery.Endpoint
			want  string
		}{
			{nil, "mesh: dial payments: no endpoints: discovery does not know the service"},
			{
				[]discovery.Endpoint{ep("", discovery.Draining), ep("", discovery.Starting), ep("", discovery.Draining), ep("web", 0)},
				"mesh: dial payments: no endpoints: 1 starting, 2 draining",
			},
			{
				[]discovery.Endpoint{ep("", discovery.Draining), {Service: "payments", State: discovery.Draining, Suspect: true}},
				"mesh: dial payments: no endpoints: 1 draining, 1 suspect",
			},
			{
				[]discovery.Endpoint{ep("web", 0), ep("admin", discovery.Draining), ep("web", 0)},
				"mesh: dial payments: no endpoints: no port default; known ports: admin, web",
			},
		} {
			orders := n.JoinConfig(t, mesh.Config{Service: "orders", Discovery: tell(c.known...)})
			_, err := orders.Dial(t.Context(), "tcp", "payments")
			if !errors.Is(err, mesh.ErrNoEndpoints) || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			_, err = tryGet(t.Context(), orders.HTTPClient(), "http://payments/")
			if !errors.Is(err, mesh.ErrNoEndpoints) || !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		}
	})
}

// balanced is a mesh of named instances of payments, and a client that was told of them.
func balanced(t *testing.T, names ...string) (client *http.Client, orders *mesh.Mesh, r *told, eps map[string]discovery.Endpoint, dials func(string) int) {
	t.Helper()
	n := meshtest.New(t, meshtest.Allow("payments", "orders"))
	eps = make(map[string]discovery.Endpoint)
	for _, name := range names {
		c := serveCounted(t, n, 0, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })
		eps[name] = discovery.Endpoint{Service: "payments", Instance: name, Addr: addrOf(c.ln)}
	}
	for i := range 2 {
		name := fmt.Sprint("dead", i)
		eps[name] = discovery.Endpoint{Service: "payments", Instance: name, Addr: netip.MustParseAddrPort(fmt.Sprintf("10.9.9.%d:1", i))}
	}
	var mu sync.Mutex
	count := make(map[netip.AddrPort]int)
	r = tell()
	orders = n.JoinConfig(t, mesh.Config{Service: "orders", Discovery: r, Trace: &mesh.Trace{
		DialDone: func(_, _ string, addr netip.AddrPort, _ time.Duration, _ error) {
			mu.Lock()
			defer mu.Unlock()
			count[addr]++
		},
	}})
	return orders.HTTPClient(), orders, r, eps, func(name string) int {
		mu.Lock()
		defer mu.Unlock()
		return count[eps[name].Addr]
	}
}

func TestRequestsAreBalanced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, r, eps, dials := balanced(t, "a", "b")
		r.set(eps["a"], eps["b"])
		got := map[string]int{}
		for range 100 {
			got[get(t, c, "http://payments/")]++
		}
		if got["a"] < 20 || got["b"] < 20 { // 50, give or take 6 standard deviations
			t.Errorf("of 100 requests: %v", got)
		}
		if dials("a") != 1 || dials("b") != 1 {
			t.Errorf("dialed a %d and b %d times, want once each", dials("a"), dials("b"))
		}
	})
}

func TestSuspectsAreUsedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, r, eps, _ := balanced(t, "a", "b")
		suspect := eps["b"]
		suspect.Suspect = true
		r.set(eps["a"], suspect)
		for range 20 {
			if got := get(t, c, "http://payments/"); got != "a" {
				t.Fatalf("%s answered, which is suspected to be gone", got)
			}
		}
		r.set(eps["dead0"], suspect)
		for range 20 {
			if got := get(t, c, "http://payments/"); got != "b" {
				t.Fatal(got)
			}
		}
	})
}

func TestWeightsFromDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, r, eps, _ := balanced(t, "a", "b")
		heavy := eps["b"]
		heavy.Weight = 9
		r.set(eps["a"], heavy)
		got := map[string]int{}
		for range 500 {
			got[get(t, c, "http://payments/")]++
		}
		if got["a"] < 20 || got["a"] > 90 { // 50, give or take 6 standard deviations
			t.Errorf("shares of 1:9: %v", got)
		}
	})
}

func TestFailureIsKnownToDialAndHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, orders, r, eps, dials := balanced(t, "a")
		r.set(eps["a"], eps["dead0"], eps["dead1"])
		for range 50 {
			conn, err := orders.Dial(t.Context(), "tcp", "payments")
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			get(t, c, "http://payments/")
		}
		for _, name := range []string{"dead0", "dead1"} {
			if n := dials(name); n > 1 {
				t.Errorf("%s was dialed %d times although it is ejected", name, n)
			}
		}
	})
}

// What a balancer of an adapter learns, Dial and HTTP know, and the other way round.
func TestFailureIsKnownToAdapters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, orders, r, eps, dials := balanced(t, "a", "b")
		all := []discovery.Endpoint{eps["a"], eps["b"], eps["dead0"], eps["dead1"]}
		r.set(all...)
		b, err := orders.Balancer("payments")
		if err != nil {
			t.Fatal(err)
		}
		name := make(map[mesh.EndpointKey]string)
		for i, key := range b.Update(all) {
			name[key] = all[i].Instance
		}
		if _, err := orders.DialEndpoint(t.Context(), "payments", eps["dead0"].Addr); err == nil {
			t.Fatal("a dead endpoint answers")
		}
		seen := make(map[string]bool)
		for range 200 {
			p, _ := b.Pick()
			switch name[p.Key] {
			case "b", "dead1":
				p.Failed()
			case "dead0":
				t.Error("an endpoint that DialEndpoint failed to reach was chosen")
			}
			seen[name[p.Key]] = true
			p.Done()
		}
		if !seen["a"] || !seen["b"] || !seen["dead1"] {
			t.Errorf("chosen: %v", seen)
		}
		for range 50 {
			if got := get(t, c, "http://payments/"); got != "a" {
				t.Errorf("HTTP went to %s, which has failed", got)
			}
		}
		if n := dials("dead1"); n > 0 {
			t.Errorf("HTTP dialed what a balancer saw fail, %d times", n)
		}
	})
}
