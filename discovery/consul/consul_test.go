package consul_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/consul"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/internal/atomicfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func follow(t testing.TB, c *catalog, cfg consul.Config) *consul.Source {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(c.Certificate())
	cfg.URL, cfg.TLS = c.URL, &tls.Config{RootCAs: roots}
	if cfg.Services == nil {
		cfg.Services = []consul.Service{{Service: "payments"}}
	}
	if cfg.StaleAfter == 0 {
		cfg.StaleAfter = time.Millisecond
	}
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	src, err := consul.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return src
}

// instance is an entry of the catalog, with checks of these statuses.
func instance(node, id, addr string, port int, checks ...string) object {
	list := []object{{"CheckID": "serfHealth", "Status": "passing"}}
	for i, c := range checks {
		checkID, status, ok := strings.Cut(c, "=")
		if !ok {
			checkID, status = fmt.Sprintf("service:%s:%d", id, i), c
		}
		list = append(list, object{"CheckID": checkID, "Status": status})
	}
	return object{
		"Node":    object{"Node": node, "Address": "10.0.0.250", "Meta": object{}},
		"Service": object{"ID": id, "Service": "x", "Address": addr, "Port": port, "Weights": object{"Passing": 1, "Warning": 1}},
		"Checks":  list,
	}
}

// An agent announces by writing to the catalog.
type agent struct {
	*static.Member
	catalog *catalog

	mu  sync.Mutex
	has map[string]string // services by instance
}

// inCatalog is what a port of a service is called there.
func inCatalog(service, port string) string {
	return strings.ReplaceAll(service, "/", "-") + "-" + port
}

func (a *agent) Register(ctx context.Context, ep discovery.Endpoint) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.Member.Register(ctx, ep); err != nil {
		return err
	}
	node, id, _ := strings.Cut(a.Instance(), "/")
	o := instance(node, id, ep.Addr.Addr().String(), int(ep.Addr.Port()))
	o["Service"].(object)["Weights"] = object{"Passing": ep.Weight, "Warning": 1}
	if ep.Zone != "" {
		o["Service"].(object)["Locality"] = object{"Zone": ep.Zone}
	}
	name := inCatalog(ep.Service, ep.Port)
	a.has[name] = a.Instance()
	a.catalog.put(name, a.Instance(), o)
	return nil
}

func (a *agent) Deregister(_ context.Context, ep discovery.Endpoint) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := inCatalog(ep.Service, ep.Port)
	if _, ok := a.has[name]; ok {
		delete(a.has, name)
		a.catalog.remove(name, a.Instance())
	}
	return nil
}

func (a *agent) leave() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.has {
		a.catalog.remove(name, a.Instance())
	}
	clear(a.has)
	return a.Close()
}

func TestConformance(t *testing.T) {
	var cfg consul.Config
	for _, s := range []string{"payments", "other", "orders", "billing/invoices", "s0", "s1", "s2", "s3"} {
		for _, port := range []string{"", "admin"} {
			cfg.Services = append(cfg.Services, consul.Service{Service: s, Port: port, Name: inCatalog(s, port)})
		}
	}
	discoverytest.Run(t, func(t *testing.T) discoverytest.Harness {
		c, n := newCatalog(t), 0
		return discoverytest.Harness{
			Lacks: discoverytest.Lacks{State: true, Weight: true}, // of weights there is always one
			Join: func(t testing.TB) discoverytest.Member {
				n++
				a := &agent{Member: static.New().Member(fmt.Sprintf("node-%d/svc", n)), catalog: c, has: make(map[string]string)}
				src := follow(t, c, cfg)
				return discoverytest.Member{
					Resolver: src, Registrar: a, Instance: a.Instance(),
					Leave: func(context.Context) error { return errors.Join(a.leave(), src.Close()) },
				}
			},
		}
	})
}

func await(t *testing.T, r discovery.Resolver, want string) {
	t.Helper()
	discoverytest.Await(t, r, "payments", func(eps []discovery.Endpoint) bool { return show(eps) == want })
}

func show(eps []discovery.Endpoint) string {
	var all []string
	for _, ep := range eps {
		s := ep.Addr.String()
		if ep.State != discovery.Ready {
			s += "," + ep.State.String()
		}
		if ep.Suspect {
			s += "?"
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func TestInstances(t *testing.T) {
	c := newCatalog(t)
	warning := instance("n", "2", "10.0.0.2", 1, "warning")
	warning["Service"].(object)["Weights"] = object{"Passing": 10, "Warning": 3}
	warning["Node"].(object)["Locality"] = object{"Region": "eu-west-1", "Zone": "eu-west-1a"}
	for id, o := range map[string]object{
		"1": instance("n", "1", "10.0.0.1", 1, "passing"),
		"2": warning,
		"3": instance("n", "3", "10.0.0.3", 1, "critical"),
		"4": instance("n", "4", "10.0.0.4", 1, "_service_maintenance:4=critical"),
		"5": instance("n", "5", "10.0.0.5", 1, "_node_maintenance=critical", "critical"),
		"6": instance("n", "6", "", 1),
		"7": instance("n", "7", "payments.example", 1),
		"8": instance("n", "8", "10.0.0.8", 0),
		"9": instance("n", "9", "10.0.0.9", 65536),
	} {
		c.put("payments", id, o)
	}
	src := follow(t, c, consul.Config{})
	await(t, src, "10.0.0.1:1 10.0.0.2:1 10.0.0.3:1? 10.0.0.4:1,draining 10.0.0.5:1,draining 10.0.0.250:1")
	if ep := src.Lookup("payments").Endpoints[1]; ep.Weight != 3 || ep.Zone != "eu-west-1/eu-west-1a" || ep.Instance != "n/2" {
		t.Errorf("got %+v", ep)
	}
}

func TestQuery(t *testing.T) {
	c := newCatalog(t)
	tagged := instance("n", "1", "10.0.0.1", 1)
	tagged["Service"].(object)["Tags"] = []string{"v2"}
	c.put("pay ments", "1", tagged)
	c.set(func() { c.services["pay%20ments"], c.indexes["pay%20ments"] = c.services["pay ments"], c.index })
	src := follow(t, c, consul.Config{
		Services:   []consul.Service{{Service: "payments", Name: "pay ments", Tag: "v2"}},
		Datacenter: "dc2", Namespace: "team", Partition: "part",
	})
	await(t, src, "10.0.0.1:1")
	if q := c.asked()[0]; q != "dc=dc2&ns=team&partition=part&stale=&tag=v2" {
		t.Errorf("asked %q", q)
	}
}

// A query blocks; one that Consul answers without news is asked again, and wakes nobody.
func TestBlocks(t *testing.T) {
	c := newCatalog(t)
	c.put("payments", "1", instance("n", "1", "10.0.0.1", 1))
	src := follow(t, c, consul.Config{Consistent: true})
	await(t, src, "10.0.0.1:1")
	before := src.Lookup("payments")
	waitFor(t, c, 2)
	c.wake()
	waitFor(t, c, 3)
	select {
	case <-before.Changed:
		t.Error("Changed fired, but nothing changed")
	default:
	}
	c.put("payments", "2", instance("n", "2", "10.0.0.2", 1))
	await(t, src, "10.0.0.1:1 10.0.0.2:1")
	if got := c.asked()[:2]; !slices.Equal(got, []string{"", "index=11&wait=5m0s"}) {
		t.Errorf("asked %q", got)
	}
}

// waitFor waits until n queries were asked.
func waitFor(t *testing.T, c *catalog, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(c.asked()) < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d queries", len(c.asked()))
		}
	}
}

// After a restored snapshot indexes are lower; none may be waited for that lies in the future, nor 0.
func TestIndexGoesBack(t *testing.T) {
	c := newCatalog(t)
	c.set(func() { c.index = 1000 })
	c.put("payments", "1", instance("n", "1", "10.0.0.1", 1))
	src := follow(t, c, consul.Config{})
	await(t, src, "10.0.0.1:1")
	waitFor(t, c, 2)
	c.set(func() { c.indexes["payments"], c.index = 5, 5 })
	c.wake() // answered with 5, at 1001
	waitFor(t, c, 4)
	c.put("payments", "2", instance("n", "2", "10.0.0.2", 1)) // is 6
	await(t, src, "10.0.0.1:1 10.0.0.2:1")
	var indexes []string
	for _, q := range c.asked() {
		for p := range strings.SplitSeq(q, "&") {
			if i, ok := strings.CutPrefix(p, "index="); ok {
				indexes = append(indexes, i)
			}
		}
	}
	if want := []string{"1001", "5"}; !slices.Equal(indexes[:2], want) {
		t.Errorf("waited for %v, want %v", indexes, want)
	}

	zero := newCatalog(t)
	zero.set(func() {
		zero.intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if r.FormValue("index") != "" {
				return false
			}
			w.Header().Set("X-Consul-Index", "0")
			_, _ = io.WriteString(w, "[]")
			return true
		}
	})
	follow(t, zero, consul.Config{})
	waitFor(t, zero, 2)
	if q := zero.asked()[1]; !strings.Contains(q, "index=1&") {
		t.Errorf("after index 0: %q", q)
	}
}

func TestAway(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter){
		"status":   func(w http.ResponseWriter) { http.Error(w, strings.Repeat("No cluster leader ", 1000), 500) },
		"no index": func(w http.ResponseWriter) { _, _ = io.WriteString(w, "[]") },
		"no JSON":  func(w http.ResponseWriter) { w.Header().Set("X-Consul-Index", "7"); _, _ = io.WriteString(w, "<html>") },
		"no list": func(w http.ResponseWriter) {
			w.Header().Set("X-Consul-Index", "7")
			_, _ = io.WriteString(w, `{"Node": 1}`)
		},
		"redirects": func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://attacker.invalid/")
			w.WriteHeader(302)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCatalog(t)
			c.put("payments", "1", instance("n", "1", "10.0.0.1", 1))
			src := follow(t, c, consul.Config{})
			await(t, src, "10.0.0.1:1")
			waitFor(t, c, 2)
			c.set(func() {
				c.intercept = func(w http.ResponseWriter, _ *http.Request) bool { answer(w); return true }
			})
			c.wake()
			await(t, src, "10.0.0.1:1?")
			c.set(func() { c.intercept = nil })
			await(t, src, "10.0.0.1:1")
		})
	}
}

func TestTokenRotates(t *testing.T) {
	c := newCatalog(t)
	c.put("payments", "1", instance("n", "1", "10.0.0.1", 1))
	path := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := atomicfile.Write(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	c.set(func() { c.token = "one" })
	src := follow(t, c, consul.Config{TokenFile: path})
	await(t, src, "10.0.0.1:1")
	waitFor(t, c, 2)
	c.set(func() { c.token = "two" })
	c.wake()
	await(t, src, "10.0.0.1:1?")
	write("two")
	await(t, src, "10.0.0.1:1")
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]consul.Config{
		"no URL":      {},
		"http":        {URL: "http://192.0.2.1:8500"},
		"a password":  {URL: "ftp://me:hunter2@192.0.2.1"},
		"bad service": {URL: "http://localhost:8500", Services: []consul.Service{{Service: "A"}}},
		"bad port":    {URL: "http://localhost:8500", Services: []consul.Service{{Service: "a", Port: "B"}}},
		"twice":       {URL: "http://[::1]:8500", Services: []consul.Service{{Service: "a"}, {Service: "a"}}},
	} {
		if src, err := consul.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
			src.Close()
		} else if !strings.HasPrefix(err.Error(), "discovery: consul: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
