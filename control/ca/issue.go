package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/intramesh/mesh/control/internal/names"
	"github.com/intramesh/mesh/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// leafCache holds a certificate and replaces it, with a new key, at two thirds of its life and when another issuer is to
// sign it.
// It needs no goroutine: issuing in process takes less time than a handshake.
type leafCache struct {
	mu    sync.Mutex
	by    *issuer
	leaf  *x509.Certificate
	key   *ecdsa.PrivateKey
	renew time.Time
}

func (lc *leafCache) get(by *issuer, issue func() (*x509.Certificate, *ecdsa.PrivateKey, error)) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	lc.mu.Lock()
	defer lc.mu.Unlock()
	if lc.by != by || time.Now().After(lc.renew) {
		leaf, key, err := issue()
		if err != nil {
			return nil, nil, err
		}
		lc.by, lc.leaf, lc.key = by, leaf, key
		lc.renew = time.Now().Add(time.Until(leaf.NotAfter) * 2 / 3)
	}
	return lc.leaf, lc.key, nil
}

// issue signs a leaf in process, past the enforcer.
func (c *CA) issue(by *issuer, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("ca: %w", err)
	}
	now := time.Now()
	template.NotBefore = now.Add(-c.backdate())
	template.NotAfter = now.Add(c.cfg.Lifetime)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	leaf, err := sign(template, by.intermediate, key.Public(), by.signer)
	if err != nil {
		return nil, nil, err
	}
	c.log.Debug("certificate issued in process", "subject", template.Subject.CommonName, "serial", leaf.SerialNumber, "expires", leaf.NotAfter)
	return leaf, key, nil
}

// serverCertificate is what the CA's own HTTPS shows.
func (c *CA) serverCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.external != nil {
		return &c.external.server.cert.Load().Certificate, nil
	}
	by := c.trust.Load().server
	leaf, key, err := c.own.get(by, func() (*x509.Certificate, *ecdsa.PrivateKey, error) {
		t := &x509.Certificate{
			Subject:     pkix.Name{CommonName: "CA of mesh " + c.td.Name()},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}
		if isIP(c.cfg.Host) {
			t.IPAddresses = []net.IP{net.ParseIP(c.cfg.Host)}
		} else {
			t.DNSNames = []string{c.cfg.Host}
		}
		return c.issue(by, t)
	})
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw, by.intermediate.Raw}, PrivateKey: key, Leaf: leaf}
	if by.cross != nil {
		cert.Certificate = append(cert.Certificate, by.cross.Raw)
	}
	return cert, nil
}

// A Source is the identity of the control plane itself. It renews by itself whenever it is
// asked.
type Source struct {
	ca   *CA
	id   spiffeid.ID
	leaf leafCache
}

var _ identity.Source = (*Source)(nil)

// Source returns an identity for a service of the control plane, under "mesh/".
func (c *CA) Source(service string) (*Source, error) {
	id, err := names.ID(c.td, service)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return &Source{ca: c, id: id}, nil
}

// GetX509SVID returns a certificate with at least a third of its life left.
func (s *Source) GetX509SVID() (*x509svid.SVID, error) {
	if s.ca.external != nil {
		return s.ca.external.svid(s.id)
	}
	by := s.ca.trust.Load().active
	leaf, key, err := s.leaf.get(by, func() (*x509.Certificate, *ecdsa.PrivateKey, error) {
		u, err := url.Parse(s.id.String())
		if err != nil {
			return nil, nil, fmt.Errorf("ca: %w", err)
		}
		return s.ca.issue(by, &x509.Certificate{
			Subject:     pkix.Name{CommonName: identity.ServiceName(s.id)},
			URIs:        []*url.URL{u},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		})
	})
	if err != nil {
		return nil, err
	}
	return &x509svid.SVID{
		ID:           s.id,
		Certificates: []*x509.Certificate{leaf, by.intermediate},
		PrivateKey:   key,
	}, nil
}

// GetX509BundleForTrustDomain returns the CA's roots.
func (s *Source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return s.ca.Bundle().GetX509BundleForTrustDomain(td)
}
