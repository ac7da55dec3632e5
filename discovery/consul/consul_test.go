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
	"github.com/intramesh/mesh/discovery/internal/testlog"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/internal/atomicfile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func (c *catalog) config() consul.Config {
	roots := x509.NewCertPool()
	roots.AddCert(c.Certificate())
	return consul.Config{URL: c.URL, TLS: &tls.Config{RootCAs: roots}}
}

func follow(t testing.TB, cfg consul.Config, services ...consul.Service) *consul.Source {
	t.Helper()
	cfg.Services = append(cfg.Services, services...)
	if cfg.Services == nil {
		cfg.Services = []consul.Service{{Service: "payments"}}
	}
	if cfg.StaleAfter == 0 {
		cfg.StaleAfter = time.Millisecond
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
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
	put    func(service, instance string, o object)
	remove func(service, instance string)

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
	name := inCatalog(ep.Service, ep.Port)
	a.has[name] = a.Instance()
	a.put(name, a.Instance(), o)
	return nil
}

func (a *agent) Deregister(_ context.Context, ep discovery.Endpoint) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := inCatalog(ep.Service, ep.Port)
	if _, ok := a.has[name]; ok {
		delete(a.has, name)
		a.remove(name, a.Instance())
	}
	return nil
}

func (a *agent) leave() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.has {
		a.remove(name, a.Instance())
	}
	clear(a.has)
	return a.Close()
}

func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(t *testing.T) discoverytest.Harness {
		c := newCatalog(t)
		return harness(c.config(), func(_ testing.TB, service, instance string, o object) { c.put(service, instance, o) },
			func(_ testing.TB, service, instance string) { c.remove(service, instance) })
	})
}

// harness is a world whose members write to the catalog.
func harness(cfg consul.Config, put func(testing.TB, string, string, object), remove func(testing.TB, string, string)) discoverytest.Harness {
	for _, s := range []string{"payments", "other", "orders", "billing/invoices", "s0", "s1", "s2", "s3"} {
		for _, port := range []string{"", "admin"} {
			cfg.Services = append(cfg.Services, consul.Service{Service: s, Port: port, Name: inCatalog(s, port)})
		}
	}
	n := 0
	return discoverytest.Harness{
		Lacks: discoverytest.Lacks{State: true, Weight: true, Zone: true, Instance: true}, // of weights there is always one; a zone has a region; an ID one service
		Join: func(t testing.TB) discoverytest.Member {
			n++
			a := &agent{
				Member: static.New().Member(fmt.Sprintf("node-%d/svc", n)), has: make(map[string]string),
				put:    func(service, instance string, o object) { put(t, service, instance, o) },
				remove: func(service, instance string) { remove(t, service, instance) },
			}
			src := follow(t, cfg)
			return discoverytest.Member{
				Resolver: src, Registrar: a, Instance: a.Instance(),
				Leave: func(context.Context) error { return errors.Join(a.leave(), src.Close()) },
			}
		},
	}
}

func await(t *testing.T, r discovery.Resolver, want string) {
	t.Helper()
	discoverytest.Await(t, r, "payments", func(eps []discovery.Endpoint) bool { return show(eps) == want })
}

func show(eps []discovery.Endpoint) string {
	var all []string
	for _, ep := range eps {
		s := ep.Addr.String()
		if also := ep.Also.String(); also != "" {
			s += "+" + also
		}
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
	tagged := instance("n", "1", "10.0.0.1", 1, "passing")
	tagged["Service"].(object)["Locality"] = object{"Region": "eu-west-1"}
	tagged["Service"].(object)["TaggedAddresses"] = object{
		"lan_ipv4": object{"Address": "10.0.0.1", "Port": 1}, "lan_ipv6": object{"Address": "fd00::1", "Port": 1}, "wan": object{"Address": "192.0.2.1", "Port": 1},
	}
	byNode := instance("n", "6", "", 1)
	byNode["Node"].(object)["TaggedAddresses"] = object{"lan": "10.0.0.250", "lan_ipv4": "10.0.0.250", "lan_ipv6": "fd00::250", "wan": "192.0.2.1"}
	other := instance("n", "8", "10.0.0.8", 8)
	other["Service"].(object)["TaggedAddresses"] = object{"lan_ipv6": object{"Address": "fd00::8", "Port": 9}} // another port: can't be told
	for id, o := range map[string]object{
		"1": tagged,
		"2": warning,
		"3": instance("n", "3", "10.0.0.3", 1, "critical"),
		"4": instance("n", "4", "10.0.0.4", 1, "_service_maintenance:4=critical"),
		"5": instance("n", "5", "10.0.0.5", 1, "_node_maintenance=critical", "critical"),
		"6": byNode,
		"7": instance("n", "7", "payments.example", 1),
		"8": other,
		"a": instance("n", "a", "10.0.0.8", 0),
		"9": instance("n", "9", "10.0.0.9", 65536),
	} {
		c.put("payments", id, o)
	}
	src := follow(t, c.config())
	await(t, src, "10.0.0.1:1+fd00::1 10.0.0.2:1 10.0.0.3:1? 10.0.0.4:1,draining 10.0.0.5:1,draining 10.0.0.250:1+fd00::250 10.0.0.8:8")
	if ep := src.Lookup("payments").Endpoints[0]; ep.Zone != "eu-west-1/" {
		t.Errorf("a region alone: %+v", ep)
	}
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
	cfg := c.config()
	cfg.Datacenter, cfg.Namespace, cfg.Partition = "dc2", "team", "part"
	src := follow(t, cfg, consul.Service{Service: "payments", Name: "pay ments", Tag: "v2"})
	await(t, src, "10.0.0.1:1")
	if q := c.asked()[0]; q != "dc=dc2&ns=team&partition=part&stale=&tag=v2" {
		t.Errorf("asked %q", q)
	}
}

// A query blocks; one that Consul answers without news is asked again, and wakes nobody.
func TestBlocks(t *testing.T) {
	c := newCatalog(t)
	c.put("payments", "1", instance("n", "1", "10.0.0.1", 1))
	cfg := c.config()
	cfg.Consistent = true
	src := follow(t, cfg)
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
	src := follow(t, c.config())
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
	follow(t, zero.config())
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
			src := follow(t, c.config())
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

// A token that may not read is answered an empty list, as if there were nobody.
func TestFiltered(t *testing.T) {
	c := newCatalog(t)
	c.put("payments", "1", instance("n", "1", "10.0.0.1", 1))
	var log testlog.Buffer
	cfg := c.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	src := follow(t, cfg)
	await(t, src, "10.0.0.1:1")
	waitFor(t, c, 2)
	c.set(func() { c.blind = true })
	c.wake()
	await(t, src, "10.0.0.1:1?")
	if !strings.Contains(log.String(), "service:read") {
		t.Errorf("the log does not say why: %s", log.String())
	}
	c.set(func() { c.blind = false })
	await(t, src, "10.0.0.1:1")
}

// More services than Consul takes connections are asked about in turns.
func TestManyServices(t *testing.T) {
	c := newCatalog(t)
	var services []consul.Service
	for i := range 300 {
		name := fmt.Sprintf("s%d", i)
		c.put(name, "1", instance("n", "1", "10.0.0.1", 1+i))
		services = append(services, consul.Service{Service: name})
	}
	src := follow(t, c.config(), services...)
	select {
	case <-src.Synced():
	case <-time.After(30 * time.Second):
		t.Fatal("never synced")
	}
	c.put("s299", "2", instance("n", "2", "10.0.0.2", 1))
	discoverytest.AwaitCount(t, src, "s299", 2)
	for i, svc := range services[:299] {
		if got := show(src.Lookup(svc.Service).Endpoints); got != fmt.Sprintf("10.0.0.1:%d", 1+i) {
			t.Errorf("%s: %s", svc.Service, got)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.ContainsFunc(c.queries, func(q string) bool { return strings.Contains(q, "wait=5m") }) {
		t.Error("a query keeps its turn for minutes")
	}
}

// An agent that was just started answers an index of 1 and nobody, before it knows better.
func TestJustStarted(t *testing.T) {
	c := newCatalog(t)
	c.put("payments", "1", instance("n", "1", "10.0.0.1", 1))
	src := follow(t, c.config())
	await(t, src, "10.0.0.1:1")
	before := src.Lookup("payments")
	waitFor(t, c, 2)
	c.set(func() {
		c.intercept = func(w http.ResponseWriter, r *http.Request) bool {
			if r.FormValue("index") == "" {
				return false
			}
			c.intercept = nil
			w.Header().Set("X-Consul-Index", "1")
			_, _ = io.WriteString(w, "[]")
			return true
		}
	})
	c.CloseClientConnections()
	waitFor(t, c, 4)
	c.put("payments", "2", instance("n", "2", "10.0.0.2", 1))
	<-before.Changed
	if got := show(src.Lookup("payments").Endpoints); got != "10.0.0.1:1 10.0.0.2:1" {
		t.Errorf("got %s", got)
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
	cfg := c.config()
	cfg.TokenFile = path
	src := follow(t, cfg)
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
