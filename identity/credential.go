package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"
)

// A Credential is one side of mutual TLS, made from a [Source]: the certificate to show now, and the [Verifier] of what
// others show. It is safe for concurrent use.
type Credential struct {
	*Verifier
	source Source
	cert   atomic.Pointer[tls.Certificate]
}

// NewCredential returns the credential of a source, which may change what it holds.
func NewCredential(src Source) *Credential {
	return &Credential{Verifier: NewVerifier(src), source: src}
}

// Certificate returns the certificate to show, as crypto/tls wants it. It is the same value until the source has
// another one.
func (c *Credential) Certificate() (*tls.Certificate, error) {
	svid, err := c.source.GetX509SVID()
	if err != nil {
		return nil, err
	}
	if old := c.cert.Load(); old != nil && old.Leaf == svid.Certificates[0] {
		return old, nil
	}
	cert := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
	for _, x := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	c.cert.Store(cert)
	return cert, nil
}

// VerifyMember returns the service whose certificate a peer showed. Unlike Verify it refuses those of other trust
// domains than this process's own, whether they are trusted or not.
func (c *Credential) VerifyMember(chain []*x509.Certificate) (service string, err error) {
	own, err := c.source.GetX509SVID()
	if err != nil {
		return "", err
	}
	id, err := c.Verify(chain)
	if err != nil {
		return "", err
	}
	if td := own.ID.TrustDomain(); !id.MemberOf(td) {
		return "", fmt.Errorf("identity: %s is not of trust domain %s", id, td)
	}
	return ServiceName(id), nil
}
