package consul_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/consul"
	"github.com/intramesh/mesh/discovery/internal/realtest"
)

// A server is a real Consul agent, one that is a server alone.
type server struct {
	*realtest.Process
	t         *testing.T // until whose end it runs
	path, dir string
	url       string
	args      []string
	token     string // the administrator's
	client    *http.Client
}

// startConsul runs a server whose configuration has these lines too.
func startConsul(t *testing.T, hcl string) *server {
	t.Helper()
	tr := new(http.Transport)
	t.Cleanup(tr.CloseIdleConnections)
	s := &server{t: t, path: realtest.Binary(t, "MESH_TEST_CONSUL"), dir: t.TempDir(), client: &http.Client{Transport: tr, Timeout: time.Minute}}
	port := func() string {
		_, p, _ := strings.Cut(realtest.Address(t), ":")
		return p
	}
	http := port()
	s.url = "http://127.0.0.1:" + http
	conf := `server = true
bootstrap_expect = 1
bind_addr = "127.0.0.1"
data_dir = "` + s.dir + `/data"
node_name = "n"
log_level = "warn"
disable_update_check = true
disable_remote_exec = true
performance { raft_multiplier = 1 }
ports { http = ` + http + " dns = -1 grpc = -1 grpc_tls = -1 server = " + port() + " serf_lan = " + port() + " serf_wan = " + port() + " }\n" + hcl
	file := filepath.Join(s.dir, "consul.hcl")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	s.args = []string{"agent", "-config-file", file}
	return s
}

// start runs the server and waits until it leads.
func (s *server) start() *server {
	s.t.Helper()
	s.Process = realtest.Start(s.t, s.path, s.args...)
	realtest.Eventually(s.t, "Consul has a leader", func() bool {
		code, answer, err := s.request(s.t, http.MethodGet, "/v1/status/leader", nil)
		if err != nil || code != http.StatusOK || !strings.Contains(answer, ":") {
			return false
		}
		code, answer, err = s.request(s.t, http.MethodGet, "/v1/catalog/nodes", nil)
		return err == nil && code == http.StatusOK && (s.token != "" || len(answer) > 10)
	})
	return s
}

func (s *server) request(t testing.TB, method, path string, body any) (int, string, error) {
	t.Helper()
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.url+path, content)
	if err != nil {
		t.Fatal(err)
	}
	if s.token != "" {
		req.Header.Set("X-Consul-Token", s.token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer), err
}

// do is a request that succeeds.
func (s *server) do(t testing.TB, method, path string, body any) string {
	t.Helper()
	code, answer, err := s.request(t, method, path, body)
	if err != nil || code != http.StatusOK {
		t.Fatalf("%s %s: %d, %s, %v", method, path, code, answer, err)
	}
	return answer
}

// register puts an instance, "node/id", into the catalog, with its checks. Its node is an external one, which has no serfHealth: else the
// leader would remove it.
func (s *server) register(t testing.TB, service, instance string, o object) {
	t.Helper()
	node, _, _ := strings.Cut(instance, "/")
	body := object{"Node": node, "Address": o["Node"].(object)["Address"], "Locality": o["Node"].(object)["Locality"]}
	svc := maps.Clone(o["Service"].(object))
	svc["ID"], svc["Service"] = serviceID(service, instance), service
	checks := []object{}
	for _, c := range o["Checks"].([]object) {
		if c = maps.Clone(c); c["CheckID"] == "serfHealth" {
			continue
		}
		if c["CheckID"] != "_node_maintenance" {
			c["ServiceID"] = svc["ID"]
		}
		checks = append(checks, c)
	}
	body["Service"], body["Checks"] = svc, checks
	s.do(t, http.MethodPut, "/v1/catalog/register", body)
}

// serviceID is unique on the node.
func serviceID(service, instance string) string {
	_, id, _ := strings.Cut(instance, "/")
	return service + "-" + id
}

func (s *server) deregister(t testing.TB, service, instance string) {
	t.Helper()
	node, _, _ := strings.Cut(instance, "/")
	s.do(t, http.MethodPut, "/v1/catalog/deregister", object{"Node": node, "ServiceID": serviceID(service, instance)})
}

func (s *server) config() consul.Config { return consul.Config{URL: s.url} }

// empty removes what tests put into the catalog.
func (s *server) empty(t testing.TB) {
	t.Helper()
	var nodes []struct{ Node string }
	if err := json.Unmarshal([]byte(s.do(t, http.MethodGet, "/v1/catalog/nodes", nil)), &nodes); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if n.Node != "n" {
			s.do(t, http.MethodPut, "/v1/catalog/deregister", object{"Node": n.Node})
		}
	}
}

// known is the condition that these are the endpoints, and fails the test if there are none meanwhile.
func known(t testing.TB, want string) func([]discovery.Endpoint) bool {
	return func(eps []discovery.Endpoint) bool {
		if len(eps) == 0 {
			t.Error("nobody is known any more")
		}
		return show(eps) == want
	}
}
