package admin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/intramesh/mesh/internal/atomicfile"
)

// Operators' certificates are of an authority of their own, which has nothing to do with the members' one: neither can
// be taken for the other, and the admin interface works whatever becomes of the mesh's roots. An operator's
// certificate says who by its common name, and the role by its organizational unit.

const (
	authorityCertFile = "ca.crt"
	authorityKeyFile  = "ca.key"

	authorityLifetime = 10 * 365 * 24 * time.Hour
	serverLifetime    = 30 * 24 * time.Hour
	// DefaultLifetime is that of an operator's certificate.
	DefaultLifetime = 90 * 24 * time.Hour
	// MaxLifetime is the longest that one may have.
	MaxLifetime = 2 * 365 * 24 * time.Hour

	backdate = time.Minute // for clocks that run behind
)

// CreateAuthority makes the authority of operators' certificates in dir, which it makes too.
func CreateAuthority(dir string) error {
	if err := atomicfile.MkdirAll(dir); err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	t := template("operators of a mesh", authorityLifetime)
	t.IsCA, t.MaxPathLenZero, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	err = errors.Join(
		atomicfile.Write(filepath.Join(dir, authorityKeyFile), keyPEM, 0o600),
		atomicfile.Write(filepath.Join(dir, authorityCertFile), encodeCert(der), 0o644))
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

// An Authority issues operators' certificates, and that of the admin interface itself.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	mu     sync.Mutex
	server *tls.Certificate
}

// LoadAuthority reads what [CreateAuthority] made.
func LoadAuthority(dir string) (*Authority, error) {
	path := filepath.Join(dir, authorityKeyFile)
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	} else if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("admin: %s may be read by others (mode %04o): run chmod 600 on it", path, perm)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, authorityCertFile), path)
	if err != nil {
		return nil, fmt.Errorf("admin: %s: %w", dir, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("admin: %s does not hold an authority", dir)
	}
	return &Authority{cert: pair.Leaf, key: key}, nil
}

// Issue returns a new identity for an operator, for [Dial]: PEM of the private key, its certificate and the authority's
// certificate. It is a secret. serial is for revoking it.
func (a *Authority) Issue(name string, role Role, lifetime time.Duration) (identity []byte, serial string, err error) {
	if name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, "", fmt.Errorf("admin: name %q: want 1 to 64 printable ASCII characters without spaces", name)
	}
	if role < Viewer || role > Admin {
		return nil, "", fmt.Errorf("admin: %v is not a role", role)
	}
	if lifetime <= 0 || lifetime > MaxLifetime {
		return nil, "", fmt.Errorf("admin: lifetime %v is not between 0 and %v", lifetime, MaxLifetime)
	}
	t := template(name, lifetime)
	t.Subject.OrganizationalUnit = []string{role.String()}
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, key, err := a.sign(t)
	if err != nil {
		return nil, "", err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, "", err
	}
	return append(append(keyPEM, encodeCert(der)...), encodeCert(a.cert.Raw)...), serialOf(t), nil
}

func (a *Authority) sign(t *x509.Certificate) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("admin: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("admin: %w", err)
	}
	return der, key, nil
}

// ServerTLS is the configuration of a listener under host: who has no certificate of this authority that is in
// force gets no further than the handshake.
func (a *Authority) ServerTLS(host string) *tls.Config {
	operators := x509.NewCertPool()
	operators.AddCert(a.cert)
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              operators,
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.serverCertificate(host) },
	}
}

// serverCertificate replaces the certificate when a third of its life is left.
func (a *Authority) serverCertificate(host string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server != nil && time.Until(a.server.Leaf.NotAfter) > serverLifetime/3 {
		return a.server, nil
	}
	t := template("control plane", serverLifetime)
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if ip := net.ParseIP(host); ip != nil {
		t.IPAddresses = []net.IP{ip}
	} else {
		t.DNSNames = []string{host}
	}
	der, key, err := a.sign(t)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	a.server = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return a.server, nil
}

func template(name string, lifetime time.Duration) *x509.Certificate {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // never fails
	serial[0] = serial[0]&0x7f | 1
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime), BasicConstraintsValid: true,
	}
}

func serialOf(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("admin: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
