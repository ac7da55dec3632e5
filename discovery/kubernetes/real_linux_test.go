package kubernetes_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/internal/realtest"
	"github.com/intramesh/mesh/discovery/internal/testlog"
)

// Against a real kube-apiserver.
func TestCluster(t *testing.T) {
	c := startCluster(t)
	c.run(t, "Slices", testClusterSlices)
	c.run(t, "Many", testClusterMany)
	c.run(t, "Compacted", testClusterCompacted)
	c.run(t, "Watches", testClusterWatches)
	c.run(t, "Refused", testClusterRefused)
	c.run(t, "Restart", testClusterRestart)
	c.run(t, "Slow", testClusterSlow)
	t.Run("Conformance", func(t *testing.T) {
		discoverytest.Run(t, func(t *testing.T) discoverytest.Harness {
			c.empty(t)
			return harness(c.config(), func(t testing.TB, o object) { c.put(t, o) }, func(t testing.TB, name string) { c.remove(t, name) })
		})
	})
}

// Without its cache kube-apiserver asks etcd, which forgets the pages of a list, and says so in other words.
func TestClusterWithoutCache(t *testing.T) {
	c := startCluster(t, "--watch-cache=false")
	c.run(t, "Many", testClusterMany)
	c.run(t, "Compacted", testClusterCompacted)
	c.run(t, "Watches", testClusterWatches)
}

func (c *cluster) run(t *testing.T, name string, test func(*testing.T, *cluster)) {
	t.Run(name, func(t *testing.T) {
		c.empty(t)
		test(t, c)
	})
}

func testClusterSlices(t *testing.T, c *cluster) {
	with := func(o object, key string, v any) object { o[key] = v; return o }
	conditions := func(name, addr string, cond object) object { return with(pod(name, addr), "conditions", cond) }
	billing := slice("pay-b", "payments", "IPv4", pod("q", "10.0.0.9"))
	billing["metadata"].(object)["namespace"] = "billing"
	c.put(t,
		slice("pay-4", "payments", "IPv4", pod("p", "10.0.0.1"), conditions("s", "10.0.0.2", object{"ready": false, "serving": false}),
			conditions("d", "10.0.0.3", object{"ready": false, "serving": true, "terminating": true}), object{"addresses": []string{"10.0.0.4"}}),
		slice("pay-6", "payments", "IPv6", pod("p", "fd00::1"), pod("six", "fd00::6")),
		slice("pay-name", "payments", "FQDN", object{"addresses": []string{"p.example.test"}}),
		with(slice("pay-ports", "payments", "IPv4", pod("r", "10.0.0.5")), "ports",
			[]object{{"name": "admin", "port": 1}, {"name": "mesh", "port": 2, "protocol": "TCP"}, {"name": "dns", "port": 3, "protocol": "UDP"}, {"name": "all"}}),
		with(slice("pay-none", "payments", "IPv4", pod("n", "10.0.0.6")), "ports", nil), billing)
	src := follow(t, c.config())
	await(t, src, "10.0.0.4:8443 10.0.0.3:8443,draining 10.0.0.1:8443+fd00::1 10.0.0.5:2 10.0.0.2:8443,starting [fd00::6]:8443 admin=10.0.0.5:1")
	discoverytest.AwaitCount(t, src, "billing/payments", 1)
	c.put(t, slice("pay-6", "payments", "IPv6", pod("p", "fd00::2")))
	c.remove(t, "default/pay-ports", "default/pay-name", "default/pay-none")
	await(t, src, "10.0.0.4:8443 10.0.0.3:8443,draining 10.0.0.1:8443+fd00::2 10.0.0.2:8443,starting")
}

// manySlices are n slices of three pods each.
func manySlices(n int) (all []object) {
	for i := range n {
		var pods []object
		for j := range 3 {
			pods = append(pods, pod(fmt.Sprintf("p-%d-%d", i, j), fmt.Sprintf("10.%d.%d.%d", j, i/250, i%250)))
		}
		all = append(all, slice(fmt.Sprintf("s-%d", i), "payments", "IPv4", pods...))
	}
	return all
}

// The list comes in pages; its version is compacted away before the second, and the server forgets it too.
func testClusterMany(t *testing.T, c *cluster) {
	c.put(t, manySlices(2000)...)
	p := c.proxy(t)
	var once atomic.Bool
	p.set(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if r.FormValue("continue") != "" && once.CompareAndSwap(false, true) {
			c.put(t, slice("x", "orders", "IPv4", pod("o", "10.0.0.3"))) // else the version is still the newest
			c.compact(t)
		}
		return w
	})
	start := time.Now()
	src := follow(t, p.config(c))
	discoverytest.AwaitCount(t, src, "payments", 6000)
	lists, pages, _ := p.asked()
	t.Logf("6,000 endpoints after %s, %d lists, %d more pages", time.Since(start), lists, pages)
	c.put(t, slice("s-1999", "payments", "IPv4", pod("last", "10.9.0.1")))
	discoverytest.AwaitCount(t, src, "payments", 5998)
}

// What was deleted while the source was away, and compacted since, is gone.
func testClusterCompacted(t *testing.T, c *cluster) {
	c.put(t, slice("a", "payments", "IPv4", pod("p", "10.0.0.1")), slice("b", "payments", "IPv4", pod("q", "10.0.0.2")))
	p := c.proxy(t)
	src := follow(t, p.config(c))
	await(t, src, "10.0.0.1:8443 10.0.0.2:8443")
	p.set(away)
	p.cut()
	await(t, src, "10.0.0.1:8443? 10.0.0.2:8443?")
	c.remove(t, "default/a")
	c.put(t, slice("x", "orders", "IPv4", pod("o", "10.0.0.3")))
	c.compact(t)
	c.api.Kill() // its cache of what changed, too
	c.start(t)
	p.set(nil)
	await(t, src, "10.0.0.2:8443")
	if lists, _, _ := p.asked(); lists < 2 {
		t.Errorf("%d lists: the version was not too old", lists)
	}
}

// Watches end in good order, with a bookmark, and go on from there.
func testClusterWatches(t *testing.T, c *cluster) {
	c.put(t, slice("a", "payments", "IPv4", pod("p", "10.0.0.1")))
	p := c.proxy(t)
	p.set(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if q := r.URL.Query(); q.Has("watch") {
			q.Set("timeoutSeconds", "4")
			r.URL.RawQuery = q.Encode()
		}
		return w
	})
	src := follow(t, p.config(c))
	await(t, src, "10.0.0.1:8443")
	changed := src.Lookup("payments").Changed
	n := 0
	realtest.Eventually(t, "three watches", func() bool {
		n++
		c.put(t, slice("x", "orders", "IPv4", pod("o", fmt.Sprintf("10.0.0.%d", n)))) // which moves on the version
		_, _, watches := p.asked()
		return watches == 3
	})
	select {
	case <-changed:
		t.Error("Changed fired, but nothing changed")
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lists) != 1 {
		t.Errorf("%d lists", len(p.lists))
	}
	versions := make(map[string]bool)
	for _, q := range p.watch {
		v, err := url.ParseQuery(q)
		if err != nil {
			t.Fatal(err)
		}
		versions[v.Get("resourceVersion")] = true
	}
	if len(versions) != 3 {
		t.Errorf("watched from %v", p.watch)
	}
}

// Without the permission, or with a token that counts no more, what is known stays, and the log says what is wrong.
func testClusterRefused(t *testing.T, c *cluster) {
	c.put(t, slice("a", "payments", "IPv4", pod("p", "10.0.0.1")))
	p := c.proxy(t)
	var log testlog.Buffer
	cfg := p.config(c)
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	src := follow(t, cfg)
	await(t, src, "10.0.0.1:8443")
	said := func(what string) {
		t.Helper()
		realtest.Eventually(t, what, func() bool {
			p.cut()
			return strings.Contains(log.String(), what)
		})
		await(t, src, "10.0.0.1:8443?")
	}
	c.allow(t, "leases")
	said("endpointslices.discovery.k8s.io is forbidden")
	c.allow(t, "endpointslices")
	await(t, src, "10.0.0.1:8443")
	c.must(t, http.MethodDelete, accounts+"/mesh", nil) // its tokens go with it
	said("the server answers 401")
	c.grant(t)
	await(t, src, "10.0.0.1:8443")
}

func testClusterRestart(t *testing.T, c *cluster) {
	c.put(t, slice("a", "payments", "IPv4", pod("p", "10.0.0.1")))
	src := follow(t, c.config())
	await(t, src, "10.0.0.1:8443")
	c.api.Kill()
	await(t, src, "10.0.0.1:8443?")
	c.start(t)
	c.put(t, slice("b", "payments", "IPv4", pod("q", "10.0.0.2")))
	await(t, src, "10.0.0.1:8443 10.0.0.2:8443")
}

// A watcher that does not read is thrown out by the server, and catches up.
func testClusterSlow(t *testing.T, c *cluster) {
	p := c.proxy(t)
	release := make(chan struct{})
	p.set(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if r.FormValue("watch") == "" {
			return w
		}
		return &stalled{w, release}
	})
	src := follow(t, p.config(c))
	<-src.Synced()
	for i := range 40 {
		all := manySlices(50)
		for _, s := range all {
			s["endpoints"].([]object)[0]["addresses"] = []string{netip.AddrFrom4([4]byte{10, 99, byte(i), 1}).String()}
			s["metadata"].(object)["annotations"] = object{"padding": strings.Repeat("x", 10<<10)}
		}
		c.put(t, all...)
	}
	close(release)
	last := func(ep discovery.Endpoint) bool { return ep.Addr == netip.MustParseAddrPort("10.99.39.1:8443") }
	discoverytest.Await(t, src, "payments", func(eps []discovery.Endpoint) bool {
		return len(eps) == 150 && len(slices.DeleteFunc(slices.Clone(eps), last)) == 100
	})
	if _, _, watches := p.asked(); watches < 2 {
		t.Errorf("%d watches: the server bore it", watches)
	}
}
