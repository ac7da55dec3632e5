package control_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/intramesh/mesh/control/ca"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.step.sm/crypto/jose"
	"go.step.sm/crypto/minica"
	"go.step.sm/crypto/pemutil"
)

var stepCADir string // to be removed

// stepCABinary is smallstep's command, of the version in go.mod, built once.
var stepCABinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "step-ca")
	if err != nil {
		return "", err
	}
	stepCADir = dir
	path := filepath.Join(dir, "step-ca")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", path, "github.com/smallstep/certificates/cmd/step-ca")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // with cgo it wants the headers of smart-card libraries
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return path, nil
})

// A stepCA is a directory for processes of step-ca, configured as docs/identity.md says.
type stepCA struct {
	external ca.External
	root     *x509.Certificate
	config   string
	stop     func()
}

var shortClaims = map[string]any{"minTLSCertDuration": "1m", "disableRenewal": true}

// newStepCA makes one and starts it, with these claims of its provisioner.
func newStepCA(t *testing.T, claims map[string]any) *stepCA {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs step-ca")
	}
	if _, err := stepCABinary(); err != nil {
		t.Skipf("step-ca can't be built from its module, so nothing is known about an external CA: %v", err)
	}
	authority, err := minica.New()
	if err != nil {
		t.Fatal(err)
	}
	key, err := jose.GenerateJWK("EC", "P-256", "ES256", "sig", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	const password = "correct horse"
	secret, err := jose.EncryptJWK(key, []byte(password))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := secret.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := pemutil.Serialize(authority.Signer)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	addr := freeAddr(t)
	s := &stepCA{root: authority.Root, external: ca.External{
		URL: "https://" + addr, RootFile: write("root.crt", certificate(authority.Root)), Provisioner: "mesh",
		KeyFile: write("key.jwe", []byte(sealed)), PasswordFile: write("password", []byte(password+"\n")),
	}}
	public := key.Public()
	config := map[string]any{
		"root": s.external.RootFile, "crt": write("intermediate.crt", certificate(authority.Intermediate)), "key": write("intermediate.key", pem.EncodeToMemory(signer)),
		"address": addr, "dnsNames": []string{"127.0.0.1"},
		"db":  map[string]any{"type": "bbolt", "dataSource": filepath.Join(dir, "db")},
		"crl": map[string]any{"enabled": true, "generateOnRevoke": true},
		"authority": map[string]any{
			"provisioners": []any{map[string]any{
				"type": "JWK", "name": "mesh", "key": public,
				"claims": claims,
			}},
			"policy": map[string]any{"x509": map[string]any{"allow": map[string]any{"uri": []string{"example.test"}, "ip": []string{"127.0.0.1"}}}},
		},
	}
	raw, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	s.config = write("ca.json", raw)
	s.start(t)
	return s
}

// start runs step-ca until stop.
func (s *stepCA) start(t *testing.T) {
	t.Helper()
	binary, err := stepCABinary()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), binary, s.config)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("step-ca: %s", log.String())
		}
	})
	t.Cleanup(s.stop)
}

// call calls step-ca itself, as whoever has this identity, and returns the status and the answer.
func (s *stepCA) call(t *testing.T, method, path string, as *x509svid.SVID) (status int, body []byte) {
	t.Helper()
	conf := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS13}
	conf.RootCAs.AddCert(s.root)
	if as != nil {
		cert := tls.Certificate{PrivateKey: as.PrivateKey}
		for _, c := range as.Certificates {
			cert.Certificate = append(cert.Certificate, c.Raw)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), method, s.external.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}
