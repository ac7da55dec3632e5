package kubernetes_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/internal/realtest"
	"github.com/intramesh/mesh/discovery/kubernetes"
)

// A cluster is etcd and kube-apiserver, alone: nobody makes slices but the test.
type cluster struct {
	t              *testing.T // until whose end it runs
	dir, url, etcd string
	api            *realtest.Process
	path           string
	flags          []string
	admin          *http.Client
}

const slicesPath = "/apis/discovery.k8s.io/v1/"

func startCluster(t *testing.T, flags ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, flags: flags, path: realtest.Binary(t, "MESH_TEST_KUBE_APISERVER"), dir: t.TempDir(), url: "https://" + realtest.Address(t)}
	c.startEtcd(t, realtest.Binary(t, "MESH_TEST_ETCD"))
	c.secrets(t)
	c.start(t)
	c.allow(t, "endpointslices")
	c.grant(t)
	return c
}

func (c *cluster) startEtcd(t *testing.T, path string) {
	t.Helper()
	c.etcd = "http://" + realtest.Address(t)
	peer := "http://" + realtest.Address(t)
	realtest.Start(t, path, "--data-dir", filepath.Join(c.dir, "etcd"), "--listen-client-urls", c.etcd, "--advertise-client-urls", c.etcd,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--unsafe-no-fsync")
}

func (c *cluster) file(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(c.file(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// secrets makes the server's certificate, the key of tokens, and who the administrator is.
func (c *cluster) secrets(t *testing.T) {
	t.Helper()
	for _, name := range []string{"tls", "sa"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		c.write(t, name+".key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
		if name == "tls" {
			c.write(t, "tls.crt", selfSigned(t, key))
		}
	}
	c.write(t, "users.csv", []byte(`admin-token,admin,1,"system:masters"`+"\n"))
	roots := x509.NewCertPool()
	pemBytes, err := os.ReadFile(c.file("tls.crt"))
	if err != nil || !roots.AppendCertsFromPEM(pemBytes) {
		t.Fatal("no certificate", err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}
	c.admin = &http.Client{Transport: tr, Timeout: time.Minute}
	t.Cleanup(tr.CloseIdleConnections)
}

// start runs kube-apiserver and waits until it is ready.
func (c *cluster) start(t *testing.T) {
	t.Helper()
	_, port, _ := strings.Cut(strings.TrimPrefix(c.url, "https://"), ":")
	c.api = realtest.Start(c.t, c.path, append([]string{
		"--etcd-servers", c.etcd, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port", port,
		"--tls-cert-file", c.file("tls.crt"), "--tls-private-key-file", c.file("tls.key"), "--cert-dir", c.dir,
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", c.file("sa.key"),
		"--service-account-signing-key-file", c.file("sa.key"), "--service-cluster-ip-range", "10.96.0.0/16",
		"--token-auth-file", c.file("users.csv"), "--authorization-mode", "RBAC", "--etcd-compaction-interval", "0",
		"--endpoint-reconciler-type", "none", "--max-requests-inflight", "0", "--max-mutating-requests-inflight", "0", "--enable-priority-and-fairness=false",
	}, c.flags...)...)
	realtest.Eventually(t, "kube-apiserver is ready", func() bool {
		code, _, err := c.request(t, http.MethodGet, "/readyz", nil)
		return err == nil && code == http.StatusOK
	})
}

// request is one of the administrator's.
func (c *cluster) request(t testing.TB, method, path string, body any) (int, object, error) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, c.url+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer admin-token")
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.admin.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer := object{}
	_ = json.NewDecoder(resp.Body).Decode(&answer) // else it is text
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, answer, nil
}

// must is a request that succeeds.
func (c *cluster) must(t testing.TB, method, path string, body any) object {
	t.Helper()
	code, answer, err := c.request(t, method, path, body)
	if err != nil || code >= 300 {
		t.Fatalf("%s %s: %d, %v, %v", method, path, code, answer["message"], err)
	}
	return answer
}

// allow says what the service account may list and watch.
func (c *cluster) allow(t testing.TB, resource string) {
	t.Helper()
	const rbac = "/apis/rbac.authorization.k8s.io/v1/"
	c.create(t, rbac+"clusterroles", object{"metadata": object{"name": "mesh"}, "rules": []object{
		{"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{resource}, "verbs": []string{"list", "watch"}},
	}})
	c.create(t, rbac+"clusterrolebindings", object{
		"metadata": object{"name": "mesh"}, "roleRef": object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "mesh"},
		"subjects": []object{{"kind": "ServiceAccount", "namespace": "default", "name": "mesh"}},
	})
}

// create makes an object, or replaces it.
func (c *cluster) create(t testing.TB, path string, o object) {
	t.Helper()
	code, answer, err := c.request(t, http.MethodPost, path, o)
	if code == http.StatusConflict {
		c.must(t, http.MethodPut, path+"/"+o["metadata"].(object)["name"].(string), o)
		return
	}
	if err != nil || code >= 300 {
		t.Fatalf("%s: %d, %v, %v", path, code, answer["message"], err)
	}
}

const accounts = "/api/v1/namespaces/default/serviceaccounts"

// grant gives the process a new token, as the kubelet does.
func (c *cluster) grant(t *testing.T) {
	t.Helper()
	realtest.Eventually(t, "the namespace default", func() bool {
		code, _, err := c.request(t, http.MethodGet, "/api/v1/namespaces/default", nil)
		return err == nil && code == http.StatusOK
	})
	c.create(t, accounts, object{"metadata": object{"name": "mesh"}})
	answer := c.must(t, http.MethodPost, accounts+"/mesh/token", object{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": object{"expirationSeconds": 600}})
	c.write(t, "token", []byte(answer["status"].(object)["token"].(string)))
}

func (c *cluster) config() kubernetes.Config {
	return kubernetes.Config{
		URL: c.url, TokenFile: c.file("token"), CAFile: c.file("tls.crt"), Namespace: "default", AllNamespaces: true, StaleAfter: time.Millisecond,
	}
}

func (c *cluster) put(t testing.TB, all ...object) {
	t.Helper()
	var wg sync.WaitGroup
	turn := make(chan struct{}, 16)
	for _, o := range all {
		ns := o["metadata"].(object)["namespace"].(string)
		o["apiVersion"], o["kind"] = "discovery.k8s.io/v1", "EndpointSlice"
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			c.create(t, slicesPath+"namespaces/"+ns+"/endpointslices", o)
		})
	}
	wg.Wait()
}

func (c *cluster) remove(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		ns, name, _ := strings.Cut(name, "/")
		c.must(t, http.MethodDelete, slicesPath+"namespaces/"+ns+"/endpointslices/"+name, nil)
	}
}

// empty removes all slices, and makes the namespaces that there are.
func (c *cluster) empty(t testing.TB) {
	t.Helper()
	for _, ns := range []string{"default", "billing"} {
		c.create(t, "/api/v1/namespaces", object{"metadata": object{"name": ns}})
		c.must(t, http.MethodDelete, slicesPath+"namespaces/"+ns+"/endpointslices", nil)
	}
}

// compact has etcd forget what was before now.
func (c *cluster) compact(t testing.TB) {
	t.Helper()
	post := func(path string, body object) object {
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.etcd+path, bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.admin.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer := object{}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status, answer, err)
		}
		return answer
	}
	now := post("/v3/kv/range", object{"key": "AA=="})["header"].(object)["revision"]
	post("/v3/kv/compaction", object{"revision": now, "physical": true})
}
