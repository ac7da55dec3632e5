package ca_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.step.sm/crypto/jose"
)

// mint signs a token with the CA's own provisioner key, as a thief of it could.
func (s *server) mint(t *testing.T, sub string, sans ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, "provisioner.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(*ecdsa.PrivateKey)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	kid := sha256.Sum256(spki)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", hex.EncodeToString(kid[:])))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tok, err := jose.Signed(signer).Claims(jose.Claims{
		Issuer: "mesh", Subject: sub, ID: rand.Text(), Audience: jose.Audience{"https://" + s.addr + "/1.0/sign"},
		IssuedAt: jose.NewNumericDate(now), NotBefore: jose.NewNumericDate(now), Expiry: jose.NewNumericDate(now.Add(time.Minute)),
	}).Claims(map[string]any{"sans": sans}).CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// TestEnforcer: not even a token signed with the right key gets a certificate that is not an
// ordinary service's.
func TestEnforcer(t *testing.T) {
	s := serve(t, newDir(t), 0)
	key := newKey(t)
	sign := func(t *testing.T, sub string, sans ...string) (int, []byte) {
		return s.post(t, "/sign", map[string]string{"csr": csr(t, key), "ott": s.mint(t, sub, sans...)}, nil)
	}
	if status, body := sign(t, "orders", "spiffe://example.test/orders"); status != http.StatusCreated {
		t.Fatalf("a good one: %d %s", status, body)
	}
	for _, sans := range [][]string{
		nil,
		{"spiffe://example.test/orders", "spiffe://example.test/payments"},
		{"spiffe://EXAMPLE.test/orders"},
		{"spiffe://example.test"},
		{"spiffe://example.test/"},
		{"spiffe://example.test/Orders"},
		{"spiffe://example.test/orders/"},
		{"spiffe://example.test/a//b"},
		{"spiffe://example.test/../orders"},
		{"spiffe://example.test/orders?x=1"},
		{"spiffe://example.test/orders#x"},
		{"spiffe://example.test/or%64ers"},
		{"spiffe://example.test:443/orders"},
		{"spiffe://user@example.test/orders"},
		{"spiffe://example.test.evil/orders"},
		{"spiffe://sub.example.test/orders"},
		{"spiffe://example.test/mesh/control"},
		{"https://example.test/orders"},
		{"orders.example.test"},
		{"10.0.0.1"},
		{"orders@example.test"},
	} {
		status, body := sign(t, "orders", sans...)
		if status < 400 || status >= 500 {
			t.Errorf("sans %q: %d %s", sans, status, body)
		}
	}
	if status, body := sign(t, "", "spiffe://example.test/orders"); status != http.StatusUnauthorized {
		t.Errorf("no subject: %d %s", status, body)
	}
}

// TestServerCertificate: it names the host and nothing that a member could be mistaken for.
func TestServerCertificate(t *testing.T) {
	s := serve(t, newDir(t), 0)
	roots := x509.NewCertPool()
	roots.AddCert(s.Bundle().X509Authorities()[0])
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	state := conn.(*tls.Conn).ConnectionState()
	leaf := state.PeerCertificates[0]
	if state.Version != tls.VersionTLS13 || len(leaf.URIs) != 0 || len(leaf.ExtKeyUsage) != 1 {
		t.Errorf("TLS %x, URIs %v, usages %v", state.Version, leaf.URIs, leaf.ExtKeyUsage)
	}
}
