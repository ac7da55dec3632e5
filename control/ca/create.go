package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // a key identifier, RFC 5280 section 4.2.1.2
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// The files of a CA's directory.
const (
	rootCertFile         = "root.crt"
	rootKeyFile          = "root.key"
	intermediateCertFile = "intermediate.crt"
	intermediateKeyFile  = "intermediate.key"
	provisionerKeyFile   = "provisioner.key"
)

// authorityLifetime is how long the root and the intermediate are valid.
const authorityLifetime = 10 * 365 * 24 * time.Hour

// Create makes the keys and certificates of a new CA in dir, which it makes too.
// The intermediate is constrained to URIs of the trust domain (RFC 5280 section
// 4.2.1.10), the only guard that also holds at renewal and at every verifier; it admits
// sub-domains, so verifiers compare the trust domain themselves. The root's key is not
// needed to run the CA.
func Create(dir string, td spiffeid.TrustDomain) error {
	if _, err := netip.ParseAddr(td.Name()); err == nil {
		return fmt.Errorf("ca: trust domain %q: an IP address can't be constrained, use a name", td.Name())
	}
	if err := atomicfile.MkdirAll(dir); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	rootKey, err := writeKey(dir, rootKeyFile)
	if err != nil {
		return err
	}
	root := authorityTemplate(td, "root")
	root.MaxPathLen = 1
	if root, err = writeCert(dir, rootCertFile, root, root, rootKey.Public(), rootKey); err != nil {
		return err
	}
	key, err := writeKey(dir, intermediateKeyFile)
	if err != nil {
		return err
	}
	intermediate := intermediateTemplate(td)
	if _, err = writeCert(dir, intermediateCertFile, intermediate, root, key.Public(), rootKey); err != nil {
		return err
	}
	_, err = writeKey(dir, provisionerKeyFile)
	return err
}

func intermediateTemplate(td spiffeid.TrustDomain) *x509.Certificate {
	t := authorityTemplate(td, "intermediate")
	t.MaxPathLenZero = true
	t.PermittedDNSDomainsCritical = true // marks the whole extension
	t.PermittedURIDomains = []string{td.Name()}
	return t
}

func authorityTemplate(td spiffeid.TrustDomain, what string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: what + " CA of mesh " + td.Name()},
		NotBefore:             now.Add(-time.Hour), // clocks may be behind
		NotAfter:              now.Add(authorityLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

func writeKey(dir, name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return key, saveKey(filepath.Join(dir, name), key)
}

func saveKey(path string, key crypto.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := atomicfile.Write(path, block, 0o600); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	return nil
}

func writeCert(dir, name string, template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	cert, err := sign(template, parent, pub, signer)
	if err != nil {
		return nil, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	if err := atomicfile.Write(filepath.Join(dir, name), block, 0o644); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return cert, nil
}

// sign issues template with a random serial number and the key identifiers filled in.
func sign(template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1)) // RFC 5280 wants it positive
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	sum := sha1.Sum(spki) //nolint:gosec // a key identifier
	template.SubjectKeyId = sum[:]
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return x509.ParseCertificate(der)
}
