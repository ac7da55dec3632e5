package kubernetes_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/internal/testlog"
	"github.com/intramesh/mesh/discovery/kubernetes"
	"github.com/intramesh/mesh/discovery/static"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func follow(t testing.TB, cfg kubernetes.Config) *kubernetes.Source {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	src, err := kubernetes.New(cfg)
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

// slice is an EndpointSlice of a service in the default namespace, with one port.
func slice(name, service, family string, endpoints ...object) object {
	return object{
		"metadata":    object{"namespace": "default", "name": name, "labels": object{"kubernetes.io/service-name": service, "app": service}},
		"addressType": family,
		"endpoints":   endpoints,
		"ports":       []object{{"name": "mesh", "port": 8443, "protocol": "TCP"}},
	}
}

func pod(name, addr string) object {
	return object{
		"addresses": []string{addr}, "conditions": object{"ready": true, "serving": true, "terminating": false},
		"targetRef": object{"kind": "Pod", "name": name, "namespace": "default", "uid": name + "-0000-0000"},
	}
}

// sliceOf is the slice in which the controller lists one port of one pod.
func sliceOf(ep discovery.Endpoint) object {
	ns, name, ok := strings.Cut(ep.Service, "/")
	if !ok {
		ns, name = "default", ep.Service
	}
	p, uid, _ := strings.Cut(ep.Instance, "@")
	e := pod(p, ep.Addr.Addr().String())
	e["targetRef"].(object)["uid"] = uid + "-and-more"
	e["conditions"] = object{"ready": ep.State == discovery.Ready, "serving": ep.State != discovery.Starting, "terminating": ep.State == discovery.Draining}
	if ep.Zone != "" {
		e["zone"] = ep.Zone
	}
	s := slice(strings.ReplaceAll(ep.Instance, "@", "-")+ep.Port, name, "IPv4", e)
	s["metadata"].(object)["namespace"] = ns
	s["metadata"].(object)["name"] = name + "-" + s["metadata"].(object)["name"].(string)
	port := ep.Port
	if port == "" {
		port = "mesh"
	}
	s["ports"] = []object{{"name": port, "port": ep.Addr.Port(), "protocol": "TCP"}}
	return s
}

// A controller announces by writing slices.
type controller struct {
	*static.Member
	put    func(object)
	remove func(name string)

	mu  sync.Mutex
	has map[[2]string]string // slices by service and port
}

func (c *controller) Register(ctx context.Context, ep discovery.Endpoint) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Member.Register(ctx, ep); err != nil {
		return err
	}
	ep.Instance = c.Instance()
	s := sliceOf(ep)
	c.has[[2]string{ep.Service, ep.Port}] = nameOf(s)
	c.put(s)
	return nil
}

func (c *controller) Deregister(_ context.Context, ep discovery.Endpoint) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := [2]string{ep.Service, ep.Port}
	if name, ok := c.has[key]; ok {
		delete(c.has, key)
		c.remove(name)
	}
	return nil
}

func (c *controller) leave() error {
	for _, key := range func() (all [][2]string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for key := range c.has {
			all = append(all, key)
		}
		return all
	}() {
		_ = c.Deregister(context.Background(), discovery.Endpoint{Service: key[0], Port: key[1]})
	}
	return c.Close()
}

func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(t *testing.T) discoverytest.Harness {
		server := newServer(t)
		return harness(server.config(), func(_ testing.TB, o object) { server.put(o) }, func(_ testing.TB, name string) { server.remove(name) })
	})
}

// harness is a world whose members write slices.
func harness(cfg kubernetes.Config, put func(testing.TB, object), remove func(testing.TB, string)) discoverytest.Harness {
	n := 0
	cfg.AllNamespaces = true
	return discoverytest.Harness{
		Lacks: discoverytest.Lacks{Weight: true},
		Join: func(t testing.TB) discoverytest.Member {
			n++
			c := &controller{
				Member: static.New().Member(fmt.Sprintf("pod-%d@0000000%d", n, n)), has: make(map[[2]string]string),
				put: func(o object) { put(t, o) }, remove: func(name string) { remove(t, name) },
			}
			src := follow(t, cfg)
			return discoverytest.Member{
				Resolver: src, Registrar: c, Instance: c.Instance(),
				Leave: func(context.Context) error { return errors.Join(c.leave(), src.Close()) },
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
		if ep.Port != "" {
			s = ep.Port + "=" + s
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

func TestSlices(t *testing.T) {
	with := func(o object, key string, v any) object { o[key] = v; return o }
	conditions := func(name, addr string, c object) object { return with(pod(name, addr), "conditions", c) }
	other := slice("b", "payments", "IPv4", pod("q", "10.0.0.9"))
	other["metadata"].(object)["namespace"] = "other"
	for _, tt := range []struct {
		name string
		zone []object
		v6   bool
		want string
	}{
		{"several slices", []object{slice("a", "payments", "IPv4", pod("p", "10.0.0.1")), slice("b", "payments", "IPv4", pod("q", "10.0.0.2"))}, false,
			"10.0.0.1:8443 10.0.0.2:8443"},
		{"a pod that moves between slices", []object{slice("a", "payments", "IPv4", pod("p", "10.0.0.1")),
			slice("b", "payments", "IPv4", conditions("p", "10.0.0.1", object{"ready": false}))}, false, "10.0.0.1:8443"},
		{"dual stack", []object{slice("a", "payments", "IPv4", pod("p", "10.0.0.1")), slice("b", "payments", "IPv6", pod("p", "fd00::1"))}, false, "10.0.0.1:8443+fd00::1"},
		{"dual stack, IPv6 first", []object{slice("a", "payments", "IPv4", pod("p", "10.0.0.1")), slice("b", "payments", "IPv6", pod("p", "fd00::1"))}, true, "[fd00::1]:8443+10.0.0.1"},
		{"IPv6 alone", []object{slice("b", "payments", "IPv6", pod("p", "fd00::1"))}, false, "[fd00::1]:8443"},
		{"conditions", []object{slice("a", "payments", "IPv4",
			conditions("a", "10.0.0.1", nil), conditions("b", "10.0.0.2", object{"ready": false, "serving": false}),
			conditions("c", "10.0.0.3", object{"ready": false, "serving": true, "terminating": true}),
			conditions("d", "10.0.0.4", object{"ready": true, "terminating": true}))}, false,
			"10.0.0.1:8443 10.0.0.2:8443,starting 10.0.0.3:8443,draining 10.0.0.4:8443,draining"},
		{"names", []object{slice("a", "payments", "FQDN", pod("p", "p.example"))}, false, ""},
		{"ports", []object{with(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")), "ports", []object{
			{"name": "admin", "port": 1, "protocol": "TCP"}, {"name": "mesh", "port": 2}, {"name": "dns", "port": 3, "protocol": "UDP"}, {"name": "all", "port": nil},
		})}, false, "10.0.0.1:2 admin=10.0.0.1:1"},
		{"a port without a name", []object{with(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")), "ports", []object{{"name": "", "port": 9}})}, false, "10.0.0.1:9"},
		{"no pods", []object{slice("a", "payments", "IPv4", object{"addresses": []string{"192.0.2.1", "192.0.2.2"}}, object{"addresses": []string{"nonsense"}}, object{})}, false, "192.0.2.1:8443"},
		{"another namespace", []object{other, slice("a", "payments", "IPv4", pod("p", "10.0.0.1"))}, false, "10.0.0.1:8443"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := newServer(t)
			server.put(tt.zone...)
			cfg := server.config()
			cfg.PreferIPv6 = tt.v6
			src := follow(t, cfg)
			<-src.Synced()
			if got := show(src.Lookup("payments").Endpoints); got != tt.want {
				t.Errorf("got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestSelector(t *testing.T) {
	server := newServer(t)
	server.put(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")), slice("b", "orders", "IPv4", pod("o", "10.0.0.2")))
	cfg := server.config()
	cfg.Selector = "app=payments"
	src := follow(t, cfg)
	<-src.Synced()
	await(t, src, "10.0.0.1:8443")
	if eps := src.Lookup("orders").Endpoints; len(eps) > 0 {
		t.Errorf("got %+v", eps)
	}
}

// A slice can change hands.
func TestSliceOfAnotherService(t *testing.T) {
	server := newServer(t)
	server.put(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")))
	src := follow(t, server.config())
	await(t, src, "10.0.0.1:8443")
	server.put(slice("a", "orders", "IPv4", pod("p", "10.0.0.1")))
	await(t, src, "")
	discoverytest.AwaitCount(t, src, "orders", 1)
}

func TestPages(t *testing.T) {
	server := newServer(t)
	for i := range 600 {
		server.put(slice(fmt.Sprintf("s-%d", i), "payments", "IPv4", pod(fmt.Sprintf("p-%d", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250))))
	}
	// While the first list is under way its version is compacted away.
	compacted := false
	server.set(func() {
		server.intercept = func(_ http.ResponseWriter, r *http.Request) bool {
			if r.FormValue("continue") != "" && !compacted {
				compacted = true
				server.compact()
			}
			return false
		}
	})
	src := follow(t, server.config())
	discoverytest.AwaitCount(t, src, "payments", 600)
	if l, p := server.requests("list"), server.requests("page"); l != 2 || p != 3 {
		t.Errorf("%d lists, %d more pages", l, p)
	}
}

// What happens while a watch is broken is not missed, and nothing is listed again.
func TestWatchResumes(t *testing.T) {
	server := newServer(t)
	src := follow(t, server.config())
	server.put(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")))
	await(t, src, "10.0.0.1:8443")
	server.bookmark()
	server.put(slice("b", "payments", "IPv4", pod("q", "10.0.0.2")))
	await(t, src, "10.0.0.1:8443 10.0.0.2:8443")
	server.bookmark() // of a version that no slice has
	server.put(slice("x", "orders", "IPv4", pod("o", "10.0.0.3")))
	discoverytest.AwaitCount(t, src, "orders", 1)
	server.cut()
	server.compact()
	server.remove("default/a")
	await(t, src, "10.0.0.2:8443")
	if n := server.requests("list"); n != 1 {
		t.Errorf("%d lists", n)
	}
}

// A version that is too old is said so in either of two ways. What vanished meanwhile is gone.
func TestGone(t *testing.T) {
	for _, way := range []string{"event", "status"} {
		t.Run(way, func(t *testing.T) {
			server := newServer(t)
			server.put(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")), slice("b", "payments", "IPv4", pod("q", "10.0.0.2")))
			src := follow(t, server.config())
			await(t, src, "10.0.0.1:8443 10.0.0.2:8443")
			refuse := true
			server.set(func() {
				server.intercept = func(w http.ResponseWriter, r *http.Request) bool {
					switch {
					case r.FormValue("watch") == "":
						refuse = false
					case refuse && way == "status":
						reply(w, http.StatusGone, status(410, "too old resource version"))
						return true
					}
					return false
				}
			})
			server.remove("default/a")
			await(t, src, "10.0.0.2:8443")
			server.set(func() { server.history = nil })
			server.put(slice("c", "orders", "IPv4", pod("o", "10.0.0.3")))
			server.set(func() { server.objects = map[string]object{}; server.history = nil })
			server.compact()
			server.set(func() { server.version++; server.compacted++ })
			server.cut()
			await(t, src, "")
		})
	}
}

func TestAway(t *testing.T) {
	server := newServer(t)
	server.put(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")))
	var log testlog.Buffer
	cfg := server.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	src := follow(t, cfg)
	await(t, src, "10.0.0.1:8443")
	server.set(func() {
		server.intercept = func(w http.ResponseWriter, _ *http.Request) bool {
			reply(w, http.StatusInternalServerError, status(500, strings.Repeat("etcd ", 1000)))
			return true
		}
	})
	server.cut()
	await(t, src, "10.0.0.1:8443?")
	server.set(func() { server.intercept = nil })
	await(t, src, "10.0.0.1:8443") // nothing changed, but it is sure again
	server.put(slice("b", "payments", "IPv4", pod("q", "10.0.0.2")))
	await(t, src, "10.0.0.1:8443 10.0.0.2:8443")
	if n := len(log.String()); n > 3000 {
		t.Errorf("%d bytes of log", n)
	}
}

// After an outage kube-apiserver, which has forgotten, begins the watch and says 410 in it. The list follows at once: that is no
// failure of a server which answers. That it is back is told while the watch goes on, and so is each other reason of an outage.
func TestGoneAfterOutage(t *testing.T) {
	server := newServer(t)
	server.put(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")), slice("b", "payments", "IPv4", pod("q", "10.0.0.2")))
	var log testlog.Buffer
	cfg := server.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	src := follow(t, cfg)
	await(t, src, "10.0.0.1:8443 10.0.0.2:8443")
	server.remove("default/a")
	await(t, src, "10.0.0.2:8443")
	said := make(chan struct{})
	var asked atomic.Int32
	server.set(func() {
		server.objects, server.history = map[string]object{}, nil
		server.version++
		server.compacted = server.version
		server.intercept = func(w http.ResponseWriter, _ *http.Request) bool {
			code := http.StatusInternalServerError
			if n := asked.Add(1); n > 1 {
				code = http.StatusForbidden
				if n == 2 {
					close(said)
				}
			}
			reply(w, code, status(code, "no"))
			return true
		}
	})
	server.cut()
	<-said
	server.set(func() { server.intercept = nil })
	await(t, src, "")
	for what, want := range map[string]int{"is suspect": 1, "is followed again": 1, "can't be followed": 3, "answers 500": 2, "answers 403": 1} {
		if got := strings.Count(log.String(), what); got != want {
			t.Errorf("%q %d times, want %d:\n%s", what, got, want, log.String())
		}
	}
}

// Tokens and authorities rotate, and neither is ever logged.
func TestRotation(t *testing.T) {
	server := newServer(t)
	server.put(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")))
	var log testlog.Buffer
	cfg := server.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	src := follow(t, cfg)
	await(t, src, "10.0.0.1:8443")
	server.set(func() { server.token = "second-token" })
	server.cut()
	await(t, src, "10.0.0.1:8443?")
	server.write(t, "token", "second-token")
	await(t, src, "10.0.0.1:8443")
	server.rotate(t)
	server.put(slice("b", "payments", "IPv4", pod("q", "10.0.0.2")))
	server.CloseClientConnections()
	await(t, src, "10.0.0.1:8443 10.0.0.2:8443")
	for _, secret := range []string{"first", "second-token"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is logged", secret)
		}
	}
}

// Whatever comes instead of an answer, it costs neither memory nor what is known.
func TestHostileServer(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"endless event": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"type": "ADDED", "object": {"metadata": {"name": "`)
			for chunk := bytes.Repeat([]byte("x"), 1<<16); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"no JSON":   func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>") },
		"no object": func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"type": "ADDED", "object": 7}`) },
		"unknown type": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, `{"type": "RENAMED", "object": {"metadata": {"name": "a"}}}`)
		},
		"redirect": func(w http.ResponseWriter) {
			w.Header().Set("Location", "https://attacker.invalid/")
			w.WriteHeader(http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t)
			server.put(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")))
			src := follow(t, server.config())
			await(t, src, "10.0.0.1:8443")
			hit := make(chan struct{})
			var once sync.Once
			server.set(func() {
				server.intercept = func(w http.ResponseWriter, _ *http.Request) bool {
					defer once.Do(func() { close(hit) })
					answer(w)
					return true
				}
			})
			server.cut()
			<-hit
			server.set(func() { server.intercept = nil })
			server.put(slice("b", "payments", "IPv4", pod("q", "10.0.0.2")))
			await(t, src, "10.0.0.1:8443 10.0.0.2:8443")
		})
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]kubernetes.Config{
		"no pod":   {Namespace: "default"},
		"no https": {URL: "http://192.0.2.1:1", Namespace: "default"},
		"no host":  {URL: "https:///", Namespace: "default"},
	} {
		t.Setenv("KUBERNETES_SERVICE_HOST", "")
		if src, err := kubernetes.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
			src.Close()
		} else if !strings.HasPrefix(err.Error(), "discovery: kubernetes: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// As in a pod, the API server may not be there yet.
func TestStartsWithoutServer(t *testing.T) {
	server := newServer(t)
	server.set(func() { server.token = "later" })
	src := follow(t, server.config())
	if s := src.Lookup("payments"); len(s.Endpoints) > 0 || s.Changed == nil {
		t.Errorf("got %+v", s)
	}
	server.put(slice("a", "payments", "IPv4", pod("p", "10.0.0.1")))
	server.write(t, "token", "later")
	select {
	case <-src.Synced():
	case <-time.After(30 * time.Second):
		t.Fatal("never synced")
	}
	if got := src.Lookup("payments").Endpoints; len(got) != 1 || got[0].Addr != netip.MustParseAddrPort("10.0.0.1:8443") {
		t.Errorf("got %+v", got)
	}
}
