package consul_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/consul"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/internal/realtest"
	"github.com/intramesh/mesh/discovery/internal/testlog"
	"github.com/intramesh/mesh/internal/atomicfile"
)

// Against a real Consul.
func TestConsul(t *testing.T) {
	s := startConsul(t, "").start()
	t.Run("Conformance", func(t *testing.T) {
		discoverytest.Run(t, func(t *testing.T) discoverytest.Harness {
			s.empty(t)
			return harness(s.config(), s.register, s.deregister)
		})
	})
	for _, tt := range []struct {
		name string
		test func(*testing.T, *server)
	}{{"Instances", testConsulInstances}, {"Errors", testConsulErrors}, {"Restart", testConsulRestart}, {"Many", testConsulMany}} {
		t.Run(tt.name, func(t *testing.T) {
			s.empty(t)
			tt.test(t, s)
		})
	}
}

const agentServices = "/v1/agent/service/"

func testConsulInstances(t *testing.T, s *server) {
	for id, o := range map[string]object{
		"6": {"Address": "2001:db8::1", "Port": 8443, "Weights": object{"Passing": 10, "Warning": 3}, "Locality": object{"Region": "eu", "Zone": "a"},
			"TaggedAddresses": object{"lan_ipv4": object{"Address": "192.0.2.6", "Port": 8443}, "wan": object{"Address": "198.51.100.1", "Port": 443}},
			"Checks":          []object{{"CheckID": "c1", "TTL": "10m", "Status": "warning"}, {"CheckID": "c2", "TTL": "10m", "Status": "passing"}}},
		"node": {"Port": 1}, "name": {"Address": "host.example", "Port": 1}, "none": {"Address": "192.0.2.1"},
		"maintained": {"Address": "192.0.2.9", "Port": 1}, "ill": {"Address": "192.0.2.10", "Port": 1, "Check": object{"TTL": "10m", "Status": "critical"}},
	} {
		o["Name"], o["ID"] = "payments", id
		s.do(t, http.MethodPut, agentServices+"register", o)
		defer s.do(t, http.MethodPut, agentServices+"deregister/"+id, nil)
	}
	s.do(t, http.MethodPut, agentServices+"maintenance/maintained?enable=true&reason=test", nil)
	src := follow(t, s.config())
	await(t, src, "[2001:db8::1]:8443+192.0.2.6 192.0.2.10:1? 192.0.2.9:1,draining 127.0.0.1:1")
	if ep := src.Lookup("payments").Endpoints[0]; ep.Weight != 3 || ep.Zone != "eu/a" {
		t.Errorf("got %+v", ep)
	}
	s.do(t, http.MethodPut, agentServices+"maintenance/maintained?enable=false", nil)
	s.do(t, http.MethodPut, "/v1/agent/check/pass/service:ill", nil)
	await(t, src, "[2001:db8::1]:8443+192.0.2.6 192.0.2.10:1 192.0.2.9:1 127.0.0.1:1")
	s.do(t, http.MethodPut, "/v1/agent/maintenance?enable=true", nil)
	await(t, src, "[2001:db8::1]:8443+192.0.2.6,draining 192.0.2.10:1,draining 192.0.2.9:1,draining 127.0.0.1:1,draining")
	s.do(t, http.MethodPut, "/v1/agent/maintenance?enable=false", nil)
	await(t, src, "[2001:db8::1]:8443+192.0.2.6 192.0.2.10:1 192.0.2.9:1 127.0.0.1:1")
}

func testConsulErrors(t *testing.T, s *server) {
	for _, tt := range []struct {
		cfg  consul.Config
		says string
	}{
		{consul.Config{Namespace: "team"}, "Namespaces are a Consul Enterprise feature"},
		{consul.Config{Partition: "part"}, "Partitions are a Consul Enterprise feature"},
		{consul.Config{Datacenter: "nowhere"}, "No path to datacenter"},
	} {
		var log testlog.Buffer
		tt.cfg.URL, tt.cfg.Logger = s.url, slog.New(slog.NewTextHandler(&log, nil))
		follow(t, tt.cfg)
		realtest.Eventually(t, tt.says, func() bool { return strings.Contains(log.String(), tt.says) })
	}
}

// Consul ends without a word, and comes back with its data.
func testConsulRestart(t *testing.T, s *server) {
	s.register(t, "payments", "a/1", instance("a", "1", "10.0.0.1", 1))
	for _, consistent := range []bool{false, true} {
		cfg := s.config()
		cfg.Consistent = consistent
		src := follow(t, cfg)
		await(t, src, "10.0.0.1:1")
		s.Kill()
		await(t, src, "10.0.0.1:1?")
		s.start()
		discoverytest.Await(t, src, "payments", known(t, "10.0.0.1:1"))
		s.register(t, "payments", "a/2", instance("a", "2", "10.0.0.2", 1))
		discoverytest.Await(t, src, "payments", known(t, "10.0.0.1:1 10.0.0.2:1"))
		s.deregister(t, "payments", "a/2")
		await(t, src, "10.0.0.1:1")
	}
}

// A thousand services are more than Consul takes connections of one client.
func testConsulMany(t *testing.T, s *server) {
	const n = 1000
	var services []consul.Service
	for i := range n {
		name := fmt.Sprintf("svc-%d", i)
		s.register(t, name, fmt.Sprintf("n%d/1", i), instance("", "", "10.0.0.1", 1000+i))
		services = append(services, consul.Service{Service: name})
	}
	start := time.Now()
	src := follow(t, s.config(), services...)
	select {
	case <-src.Synced():
		t.Logf("%d services after %s", n, time.Since(start))
	case <-time.After(time.Minute):
		t.Fatal("never synced")
	}
	start = time.Now()
	s.register(t, "svc-999", "n999/2", instance("", "", "10.0.0.2", 1))
	discoverytest.AwaitCount(t, src, "svc-999", 2)
	t.Logf("a change is seen after %s", time.Since(start))
}

// With ACLs a token may be unknown, or may read nothing, which are not the same.
func TestConsulACL(t *testing.T) {
	const root = "11111111-2222-3333-4444-555555555555"
	s := startConsul(t, `acl {
 enabled = true
 default_policy = "deny"
 tokens { initial_management = "`+root+`" }
}`)
	s.token = root
	s.start()
	realtest.Eventually(t, "the token of the administrator", func() bool {
		code, _, err := s.request(t, http.MethodGet, "/v1/acl/token/self", nil)
		return err == nil && code == http.StatusOK
	})
	s.register(t, "payments", "a/1", instance("a", "1", "10.0.0.1", 1))
	const read = `service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }`
	var policy struct{ ID string }
	put := func(path string, body, to any) {
		t.Helper()
		if err := json.Unmarshal([]byte(s.do(t, http.MethodPut, path, body)), to); err != nil {
			t.Fatal(err)
		}
	}
	put("/v1/acl/policy", object{"Name": "mesh", "Rules": read}, &policy)
	file := filepath.Join(t.TempDir(), "token")
	grant := func() (accessor string) {
		var token struct{ AccessorID, SecretID string }
		put("/v1/acl/token", object{"Policies": []object{{"ID": policy.ID}}}, &token)
		if err := atomicfile.Write(file, []byte(token.SecretID), 0o600); err != nil {
			t.Fatal(err)
		}
		return token.AccessorID
	}
	accessor := grant()
	var log testlog.Buffer
	cfg := s.config()
	cfg.TokenFile, cfg.Logger = file, slog.New(slog.NewTextHandler(&log, nil))
	src := follow(t, cfg)
	await(t, src, "10.0.0.1:1")
	put("/v1/acl/policy/"+policy.ID, object{"Name": "mesh", "Rules": `service "other" { policy = "read" }`}, new(object))
	s.register(t, "payments", "a/1", instance("a", "1", "10.0.0.1", 2)) // or else Consul holds the query
	await(t, src, "10.0.0.1:1?")
	put("/v1/acl/policy/"+policy.ID, object{"Name": "mesh", "Rules": read}, new(object))
	await(t, src, "10.0.0.1:2")
	s.do(t, http.MethodDelete, "/v1/acl/token/"+accessor, nil)
	await(t, src, "10.0.0.1:2?")
	grant()
	await(t, src, "10.0.0.1:2")
	for _, what := range []string{"service:read and node:read", "ACL not found"} {
		if !strings.Contains(log.String(), what) {
			t.Errorf("the log does not say %q:\n%s", what, log.String())
		}
	}
}
