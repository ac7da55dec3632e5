package enrol_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/wire"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// A kube is the token side of a cluster: it signs for service accounts, and serves its keys to who shows its
// bearer token.
type kube struct {
	enrol.Kubernetes
	*httptest.Server

	mu   sync.Mutex
	key  crypto.Signer
	kid  string
	gets int
	down bool
}

func newKube(t *testing.T, accounts ...enrol.Account) *kube {
	t.Helper()
	k := &kube{}
	k.rotate(t)
	k.Server = httptest.NewTLSServer(k)
	t.Cleanup(k.Close)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	k.Kubernetes = enrol.Kubernetes{
		Issuer: issuer, Audience: "mesh.example.test", JWKSURL: k.URL + "/openid/v1/jwks", Accounts: accounts,
		CAFile:     write("ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate().Raw})),
		BearerFile: write("bearer", []byte("of the control plane\n")),
	}
	return k
}

// rotate signs with a new key from now on, and forgets the old one.
func (k *kube) rotate(t *testing.T) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.key, k.kid = key, rand.Text()
}

func (k *kube) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gets++
	if k.down || r.URL.Path != "/openid/v1/jwks" || r.Header.Get("Authorization") != "Bearer of the control plane" {
		http.Error(w, "no", http.StatusForbidden)
		return
	}
	_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.key.Public(), KeyID: k.kid, Algorithm: "RS256", Use: "sig"}}})
}

// token is what the kubelet projects for an account, changed; a nil value takes a claim out.
func (k *kube) token(t *testing.T, namespace, name string, change map[string]any) string {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	return sign(t, k.key, k.kid, jose.RS256, namespace, name, change)
}

func sign(t *testing.T, key any, kid string, alg jose.SignatureAlgorithm, namespace, name string, change map[string]any) string {
	t.Helper()
	now := time.Now()
	claims := map[string]any{
		"iss": issuer, "aud": []string{"mesh.example.test"}, "sub": "system:serviceaccount:" + namespace + ":" + name,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{
			"namespace":      namespace,
			"pod":            map[string]any{"name": "payments-6f7-x2x", "uid": "1"},
			"serviceaccount": map[string]any{"name": name, "uid": "2"},
		},
	}
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(raw)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var shop = []enrol.Account{
	{Namespace: "shop", Name: "payments", Service: "payments"},
	{Namespace: "team-*", Name: "*", Service: "{namespace}/{name}"},
}

// TestKubernetesEnrols a pod as it does: with a file that the kubelet replaces.
func TestKubernetesEnrols(t *testing.T) {
	k := newKube(t, shop...)
	p := newPlane(t, enrol.Settings{Kubernetes: []enrol.Kubernetes{k.Kubernetes}})
	file := filepath.Join(t.TempDir(), "token")
	prove := identity.KubernetesToken(file)
	if err := p.enrol(t.Context(), "payments", "", prove); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("without the file: %v", err)
	}
	for _, c := range []struct{ namespace, name, service string }{
		{"shop", "payments", "payments"},
		{"team-a", "web", "team-a/web"},
	} {
		if err := os.WriteFile(file, []byte(k.token(t, c.namespace, c.name, nil)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := p.enrol(t.Context(), c.service, "", prove); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if k.gets != 1 {
		t.Errorf("the keys were fetched %d times", k.gets)
	}
}

func TestKubernetesRefuses(t *testing.T) {
	k := newKube(t, shop...)
	g, _ := newGate(t, enrol.Settings{Kubernetes: []enrol.Kubernetes{k.Kubernetes}})
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	past, future := time.Now().Add(-time.Hour).Unix(), time.Now().Add(time.Hour).Unix()
	for name, c := range map[string]struct{ token, want string }{
		"another service":    {k.token(t, "shop", "orders", nil), "shop/orders may not be payments"},
		"another namespace":  {k.token(t, "evil", "payments", nil), "evil/payments may not be payments"},
		"another audience":   {k.token(t, "shop", "payments", map[string]any{"aud": "vault"}), "another audience"},
		"no audience":        {k.token(t, "shop", "payments", map[string]any{"aud": nil}), "another audience"},
		"another issuer":     {k.token(t, "shop", "payments", map[string]any{"iss": "https://evil.example"}), "issuer is not one"},
		"expired":            {k.token(t, "shop", "payments", map[string]any{"exp": past}), "has expired"},
		"without expiry":     {k.token(t, "shop", "payments", map[string]any{"exp": nil}), "no expiry"},
		"not yet":            {k.token(t, "shop", "payments", map[string]any{"nbf": future}), "not valid yet"},
		"a user's":           {k.token(t, "shop", "payments", map[string]any{"sub": "system:admin"}), "not a service account's"},
		"a split subject":    {k.token(t, "shop", "x", map[string]any{"sub": "system:serviceaccount:shop:payments:x"}), "not a service account's"},
		"two accounts":       {k.token(t, "shop", "x", map[string]any{"sub": "system:serviceaccount:shop:payments"}), "contradicts itself"},
		"another key":        {sign(t, other, k.kid, jose.ES256, "shop", "payments", nil), "not accepted"},
		"the keys as secret": {sign(t, []byte(strings.Repeat("k", 32)), k.kid, jose.HS256, "shop", "payments", nil), "not accepted"},
		"no token":           {"e30", "not accepted"},
	} {
		if status, text := ask(t, g, wire.ProofKubernetes, c.token, "payments", newCSR()); status != http.StatusUnauthorized || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s, want 401 and %q", name, status, text, c.want)
		}
	}
	bare, _ := newGate(t, enrol.Settings{})
	if status, text := ask(t, bare, wire.ProofKubernetes, k.token(t, "shop", "payments", nil), "payments", newCSR()); status != http.StatusUnauthorized || !strings.Contains(text, "knows no Kubernetes cluster") {
		t.Errorf("%d %s", status, text)
	}
}

// TestKubernetesKeys: keys that are rotated are found, and nobody gets in while there are none.
func TestKubernetesKeys(t *testing.T) {
	k := newKube(t, shop...)
	g, _ := newGate(t, enrol.Settings{Kubernetes: []enrol.Kubernetes{k.Kubernetes}})
	k.down = true
	if status, text := ask(t, g, wire.ProofKubernetes, k.token(t, "shop", "payments", nil), "payments", newCSR()); status == http.StatusOK {
		t.Errorf("without keys: %d %s", status, text)
	}
	k.down = false
	fresh, _ := newGate(t, enrol.Settings{Kubernetes: []enrol.Kubernetes{k.Kubernetes}})
	for range 3 {
		if status, text := ask(t, fresh, wire.ProofKubernetes, k.token(t, "shop", "payments", nil), "payments", newCSR()); status != http.StatusOK {
			t.Errorf("%d %s", status, text)
		}
	}
	// From a file, which is read at each use.
	file := filepath.Join(t.TempDir(), "jwks")
	publish := func() {
		raw, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.key.Public(), KeyID: k.kid, Use: "sig"}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	offline := k.Kubernetes
	offline.JWKSURL, offline.JWKSFile, offline.CAFile, offline.BearerFile = "", file, "", ""
	of, _ := newGate(t, enrol.Settings{Kubernetes: []enrol.Kubernetes{offline}})
	for range 2 {
		if status, text := ask(t, of, wire.ProofKubernetes, k.token(t, "shop", "payments", nil), "payments", newCSR()); status != http.StatusOK {
			t.Errorf("%d %s", status, text)
		}
		old := k.token(t, "shop", "payments", nil)
		k.rotate(t)
		publish()
		if status, text := ask(t, of, wire.ProofKubernetes, old, "payments", newCSR()); status != http.StatusUnauthorized {
			t.Errorf("signed with a key that is gone: %d %s", status, text)
		}
	}
}

func TestKubernetesSettings(t *testing.T) {
	k := newKube(t, shop...)
	for name, edit := range map[string]func(*enrol.Kubernetes){
		"no issuer":         func(k *enrol.Kubernetes) { k.Issuer = "" },
		"no audience":       func(k *enrol.Kubernetes) { k.Audience = "" },
		"no keys":           func(k *enrol.Kubernetes) { k.JWKSURL = "" },
		"two sets of keys":  func(k *enrol.Kubernetes) { k.JWKSFile = k.CAFile },
		"plain HTTP":        func(k *enrol.Kubernetes) { k.JWKSURL = "http://10.0.0.1/keys" },
		"no authorities":    func(k *enrol.Kubernetes) { k.CAFile = k.BearerFile },
		"no accounts":       func(k *enrol.Kubernetes) { k.Accounts = nil },
		"no namespace":      func(k *enrol.Kubernetes) { k.Accounts = []enrol.Account{{Name: "a", Service: "a"}} },
		"a pattern service": func(k *enrol.Kubernetes) { k.Accounts = []enrol.Account{{Namespace: "a", Name: "a", Service: "a*"}} },
		"reserved": func(k *enrol.Kubernetes) {
			k.Accounts = []enrol.Account{{Namespace: "a", Name: "a", Service: "mesh/x"}}
		},
	} {
		c := k.Kubernetes
		edit(&c)
		if _, err := enrol.New(enrol.Config{Settings: enrol.Settings{Kubernetes: []enrol.Kubernetes{c}}}); err == nil || !strings.Contains(err.Error(), "kubernetes[0]") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
