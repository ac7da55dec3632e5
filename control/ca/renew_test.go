package ca_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/identity"
)

// forge makes a certificate signed by parent, or by itself.
func forge(t *testing.T, parent *tls.Certificate, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	u, err := url.Parse("spiffe://example.test/admin")
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:                  []*url.URL{u},
		BasicConstraintsValid: true,
	}
	if change != nil {
		change(tmpl)
	}
	issuer, signer := tmpl, any(key)
	if parent != nil {
		issuer, signer = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	if parent != nil {
		c.Certificate = append(c.Certificate, parent.Certificate...)
	}
	return c
}

// intermediate loads the CA's own issuing key, to make what only its holder could.
func intermediate(t *testing.T, dir string) *tls.Certificate {
	t.Helper()
	c, err := tls.LoadX509KeyPair(filepath.Join(dir, "intermediate.crt"), filepath.Join(dir, "intermediate.key"))
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// TestRenewalRefuses is about what smallstep leaves open: its renewal asks neither who
// issued a certificate nor whether it is in force.
func TestRenewalRefuses(t *testing.T) {
	s := serve(t, newDir(t), 0)
	other := serve(t, newDir(t), 0)
	issuer := intermediate(t, s.dir)
	member := s.enrol(t, "orders")
	revoked := s.enrol(t, "orders")
	if _, err := s.RevokeSerial(t.Context(), revoked.Leaf.SerialNumber); err != nil {
		t.Fatal(err)
	}
	control, err := s.Source("mesh/control")
	if err != nil {
		t.Fatal(err)
	}
	svid, err := control.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	expire := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	for name, cert := range map[string]*tls.Certificate{
		"nothing":                 nil,
		"self-signed":             forge(t, nil, nil),
		"self-signed, expired":    forge(t, nil, expire),
		"another CA's":            other.enrol(t, "admin"),
		"signed by a member":      forge(t, member, nil),
		"ours, expired":           forge(t, issuer, expire),
		"ours, not yet valid":     forge(t, issuer, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
		"ours, revoked":           revoked,
		"ours, two URIs":          forge(t, issuer, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }),
		"ours, DNS name":          forge(t, issuer, func(c *x509.Certificate) { c.DNSNames = []string{"ca.example.test"} }),
		"ours, another domain":    forge(t, issuer, func(c *x509.Certificate) { c.URIs[0].Host = "other.test" }),
		"ours, sub-domain":        forge(t, issuer, func(c *x509.Certificate) { c.URIs[0].Host = "sub.example.test" }),
		"the control plane's own": {Certificate: [][]byte{svid.Certificates[0].Raw}, PrivateKey: svid.PrivateKey},
	} {
		t.Run(name, func(t *testing.T) {
			for path, body := range map[string]any{"/renew": nil, "/1.0/renew": nil, "/rekey": map[string]string{"csr": csr(t, newKey(t))}} {
				if status, answer := s.post(t, path, body, cert); status != http.StatusUnauthorized {
					t.Errorf("%s: %d %s", path, status, answer)
				}
			}
		})
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("no weak keys to be had:", err)
	}
	if status, answer := s.post(t, "/rekey", map[string]string{"csr": csr(t, weak)}, member); status != http.StatusForbidden {
		t.Errorf("rekey to a weak key: %d %s", status, answer)
	}
	if status, answer := s.post(t, "/renew", nil, member); status != http.StatusCreated {
		t.Errorf("the good one: %d %s", status, answer)
	}
}

// TestOnlyMembersAPI: what step-ca serves beyond enrolment is not there.
func TestOnlyMembersAPI(t *testing.T) {
	s := serve(t, newDir(t), 0)
	for _, path := range []string{"/ssh/sign", "/revoke", "/re-sign", "/sign-ssh", "/acme/acme/new-order", "/admin/provisioners", "/provisioners", "/1.0/ssh/config"} {
		if status, _ := s.post(t, path, nil, nil); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _ := s.post(t, "/sign", map[string]string{"csr": strings.Repeat("x", 1<<20), "ott": "x"}, nil); status != http.StatusBadRequest {
		t.Errorf("a body of 1 MiB: %d", status)
	}
}

// TestNameConstraint: even the intermediate's key makes nothing that passes for another trust
// domain. It does for a sub-domain, so only identity.Verify, which compares, refuses that.
func TestNameConstraint(t *testing.T) {
	s := serve(t, newDir(t), 0)
	issuer := intermediate(t, s.dir)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(s.Bundle().X509Authorities()[0])
	between.AddCert(issuer.Leaf)
	for host, c := range map[string]struct{ plain, strict bool }{
		"example.test":      {true, true},
		"sub.example.test":  {true, false},
		"example.test.evil": {false, false},
		"other.test":        {false, false},
	} {
		leaf := forge(t, issuer, func(c *x509.Certificate) { c.URIs[0].Host = host }).Leaf
		_, plain := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		_, strict := identity.Verify([]*x509.Certificate{leaf, issuer.Leaf}, s.Bundle())
		if (plain == nil) != c.plain || (strict == nil) != c.strict {
			t.Errorf("%s: crypto/x509 says %v, identity.Verify %v", host, plain, strict)
		}
	}
	if c := issuer.Leaf; !c.PermittedDNSDomainsCritical || !c.MaxPathLenZero {
		t.Errorf("intermediate: constraints critical %v, no further CA %v", c.PermittedDNSDomainsCritical, c.MaxPathLenZero)
	}
}

func TestOpenRefusesDamage(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"open key": func(d string) error { return os.Chmod(d+"/intermediate.key", 0o644) },
		"key of another": func(d string) error {
			b, err := os.ReadFile(d + "/provisioner.key")
			if err != nil {
				return err
			}
			return os.WriteFile(d+"/intermediate.key", b, 0o600)
		},
		"garbled certificate": func(d string) error {
			return os.WriteFile(d+"/root.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			c, err := ca.Open(ca.Config{Dir: dir, Host: "127.0.0.1"})
			if err == nil {
				t.Error("opened", c.Close())
			}
			t.Log(err)
		})
	}
}
