package enrol_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// corp is the authority of a company, with one level.
type corp struct {
	t    *testing.T
	dir  string
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCorp(t *testing.T) *corp {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &corp{t: t, dir: t.TempDir(), key: key}
	c.root = c.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "corp"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, key.Public())
	c.write("root.pem", "CERTIFICATE", c.root.Raw)
	return c
}

func (c *corp) sign(template *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	c.t.Helper()
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent := c.root
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, c.key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

func (c *corp) write(name, kind string, der []byte) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// machine issues a certificate and returns how a process proves with it.
func (c *corp) machine(key crypto.Signer, edit func(*x509.Certificate), as spiffeid.ID) identity.Prover {
	c.t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "m1"}, DNSNames: []string{"m1.payments.corp.example"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	name := rand.Text()
	return identity.X509Proof(c.write(name+".crt", "CERTIFICATE", c.sign(template, key.Public()).Raw), c.write(name+".key", "PRIVATE KEY", der), as)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (c *corp) settings() enrol.Settings {
	return enrol.Settings{X509: []enrol.X509{{RootsFile: filepath.Join(c.dir, "root.pem"), Names: []enrol.Name{
		{DNS: "*.payments.corp.example", Service: "payments"},
		{CommonName: "svc-*", Service: "legacy/{*}"},
	}}}}
}

func TestX509Enrols(t *testing.T) {
	c := newCorp(t)
	p := newPlane(t, c.settings())
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": newKey(t), "P-384": p384, "RSA": rsaKey, "Ed25519": ed} {
		if err := p.enrol(t.Context(), "payments", "", c.machine(key, nil, id("payments"))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	billing := func(t *x509.Certificate) { t.Subject.CommonName = "svc-billing" }
	if err := p.enrol(t.Context(), "legacy/billing", "", c.machine(newKey(t), billing, id("legacy/billing"))); err != nil {
		t.Error(err)
	}
}

func TestX509Refuses(t *testing.T) {
	c, other := newCorp(t), newCorp(t)
	g, _ := newGate(t, c.settings())
	csr := newCSR()
	prove := func(p identity.Prover, csr [sha256.Size]byte) string {
		proof, err := p(t.Context(), csr)
		if err != nil {
			t.Fatal(err)
		}
		return proof.Value
	}
	good := prove(c.machine(newKey(t), nil, id("payments")), csr)
	stolen := strings.Split(good, ".")
	stolen[0] = strings.Split(prove(c.machine(newKey(t), nil, id("payments")), csr), ".")[0]
	for name, v := range map[string]struct{ proof, want string }{
		"good":                 {good, "ott for payments"},
		"of another authority": {prove(other.machine(newKey(t), nil, id("payments")), csr), "none of the authorities"},
		"another service":      {prove(c.machine(newKey(t), nil, id("orders")), csr), "another request"},
		"another request":      {prove(c.machine(newKey(t), nil, id("payments")), newCSR()), "another request"},
		"another mesh":         {prove(c.machine(newKey(t), nil, spiffeid.RequireFromString("spiffe://other.test/payments")), csr), "another mesh"},
		"another name":         {prove(c.machine(newKey(t), func(t *x509.Certificate) { t.DNSNames = []string{"m1.orders.corp.example"} }, id("payments")), csr), "may not be payments"},
		"a server's":           {prove(c.machine(newKey(t), func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, id("payments")), csr), "none of the authorities"},
		"not for signing":      {prove(c.machine(newKey(t), func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageKeyEncipherment }, id("payments")), csr), "not for signing"},
		"with another's chain": {strings.Join(stolen, "."), "not signed with the key"},
		"without a chain":      {"eyJhbGciOiJFUzI1NiJ9.e30.c2ln", "none of the authorities"},
		"rubbish":              {"x", "not a signed JWT"},
	} {
		status, text := ask(t, g, wire.ProofX509, v.proof, "payments", csr)
		if want := name == "good"; (status == http.StatusOK) != want || status >= 500 || !strings.Contains(text, v.want) {
			t.Errorf("%s: %d %s, want %q", name, status, text, v.want)
		}
	}
}

func TestX509Settings(t *testing.T) {
	c := newCorp(t)
	good := c.settings().X509[0]
	for name, edit := range map[string]func(*enrol.X509){
		"no roots":   func(x *enrol.X509) { x.RootsFile = "" },
		"not there":  func(x *enrol.X509) { x.RootsFile += "x" },
		"no names":   func(x *enrol.X509) { x.Names = nil },
		"two names":  func(x *enrol.X509) { x.Names = []enrol.Name{{URI: "a", DNS: "b", Service: "c"}} },
		"no service": func(x *enrol.X509) { x.Names = []enrol.Name{{URI: "a"}} },
		"reserved":   func(x *enrol.X509) { x.Names = []enrol.Name{{URI: "a*", Service: "mesh/{*}"}} },
	} {
		x := good
		edit(&x)
		if _, err := enrol.New(enrol.Config{Settings: enrol.Settings{X509: []enrol.X509{x}}}); err == nil || !strings.Contains(err.Error(), "x509[0]") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
