// Package testca is a certificate authority in memory, for tests and package meshtest. It
// reads the clock by time.Now: inside a synctest bubble make the CA inside as well.
package testca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// LeafLifetime is how long certificates last that a test doesn't give another NotAfter.
const LeafLifetime = time.Hour

const caLifetime = 10 * 365 * 24 * time.Hour

// A CA is a root and an intermediate that may only sign for its trust domain, as "mesh init"
// makes them. It is safe for concurrent use.
type CA struct {
	// Root is what verifiers trust; Intermediate signs.
	Root, Intermediate *x509.Certificate
	// RootKey and IntermediateKey are their private keys.
	RootKey, IntermediateKey crypto.Signer

	td spiffeid.TrustDomain
}

// New makes a CA.
func New(td spiffeid.TrustDomain) (*CA, error) {
	if td.IsZero() {
		return nil, fmt.Errorf("testca: the trust domain is empty")
	}
	ca := &CA{td: td}
	var err error
	if ca.Root, ca.RootKey, err = authority(&x509.Certificate{
		Subject: pkix.Name{CommonName: td.Name() + " test root"},
	}, nil, nil); err != nil {
		return nil, fmt.Errorf("testca: %w", err)
	}
	if ca.Intermediate, ca.IntermediateKey, err = authority(&x509.Certificate{
		Subject:                     pkix.Name{CommonName: td.Name() + " test intermediate"},
		MaxPathLenZero:              true,
		PermittedURIDomains:         []string{td.Name()},
		PermittedDNSDomainsCritical: true,
	}, ca.Root, ca.RootKey); err != nil {
		return nil, fmt.Errorf("testca: %w", err)
	}
	return ca, nil
}

func authority(template, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	template.SerialNumber = serial()
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(caLifetime)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	cert, err := sign(template, parent, key.Public(), parentKey)
	return cert, key, err
}

func sign(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] |= 1
	return new(big.Int).SetBytes(b[:])
}

// TrustDomain returns what New was given.
func (ca *CA) TrustDomain() spiffeid.TrustDomain { return ca.td }

// Bundle returns the trust domain's bundle, which holds the root.
func (ca *CA) Bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(ca.td, []*x509.Certificate{ca.Root})
}

// Template returns the certificate that SVID issues to a service: valid from a minute ago
// for LeafLifetime.
func (ca *CA) Template(service string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(LeafLifetime),
		URIs:         []*url.URL{{Scheme: "spiffe", Host: ca.td.Name(), Path: "/" + service}},
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// Sign signs a template as it is, and returns the leaf and the intermediate.
func (ca *CA) Sign(template *x509.Certificate, pub crypto.PublicKey) ([]*x509.Certificate, error) {
	leaf, err := sign(template, ca.Intermediate, pub, ca.IntermediateKey)
	if err != nil {
		return nil, fmt.Errorf("testca: %w", err)
	}
	return []*x509.Certificate{leaf, ca.Intermediate}, nil
}

// SVID issues a certificate with a new key to a service ("payments"). Each edit may change,
// or spoil, the template before it is signed.
func (ca *CA) SVID(service string, edit ...func(*x509.Certificate)) (*x509svid.SVID, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("testca: %w", err)
	}
	template := ca.Template(service)
	for _, f := range edit {
		f(template)
	}
	chain, err := ca.Sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	svid := &x509svid.SVID{Certificates: chain, PrivateKey: key}
	// What a test spoiled may have no ID: the zero ID is then what it is.
	svid.ID, _ = x509svid.IDFromCert(chain[0])
	return svid, nil
}

// Source issues a certificate to a service and returns it together with the bundle.
func (ca *CA) Source(service string) (identity.Source, error) {
	svid, err := ca.SVID(service)
	if err != nil {
		return nil, err
	}
	return identity.Static(svid, ca.Bundle()), nil
}

// Server issues a web server's certificate for host names and IP addresses.
func (ca *CA) Server(hosts ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("testca: %w", err)
	}
	template := ca.Template("")
	template.URIs = nil
	template.NotAfter = time.Now().Add(caLifetime)
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	chain, err := ca.Sign(template, key.Public())
	if err != nil {
		return tls.Certificate{}, err
	}
	return Certificate(&x509svid.SVID{Certificates: chain, PrivateKey: key}), nil
}

// Certificate returns an SVID in crypto/tls's form.
func Certificate(svid *x509svid.SVID) tls.Certificate {
	c := tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, cert := range svid.Certificates {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c
}

// Write puts an SVID and the bundle into dir as PEM files: cert.pem, key.pem and roots.pem.
func (ca *CA) Write(dir string, svid *x509svid.SVID) (certFile, keyFile, rootsFile string, err error) {
	cert, key, err := svid.Marshal()
	if err != nil {
		return "", "", "", fmt.Errorf("testca: %w", err)
	}
	roots, err := ca.Bundle().Marshal()
	if err != nil {
		return "", "", "", fmt.Errorf("testca: %w", err)
	}
	certFile, keyFile, rootsFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "roots.pem")
	for name, data := range map[string][]byte{certFile: cert, keyFile: key, rootsFile: roots} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return "", "", "", fmt.Errorf("testca: %w", err)
		}
	}
	return certFile, keyFile, rootsFile, nil
}
