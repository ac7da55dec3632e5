package ca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/intramesh/mesh/control/internal/names"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// enforcer is the last to look at a certificate before smallstep signs it: left alone it
// signs two URIs, foreign paths, upper-case trust domains, queries and fragments, because
// its name policy looks at a URI's host only. smallstep asks it when it signs and
// not when it renews, so the handler asks it there.
type enforcer struct{ td spiffeid.TrustDomain }

// Enforce accepts exactly one URI, the SPIFFE ID of an ordinary service of this trust
// domain, and no other name.
func (e enforcer) Enforce(c *x509.Certificate) error {
	if n := len(c.DNSNames) + len(c.IPAddresses) + len(c.EmailAddresses); n > 0 {
		return fmt.Errorf("certificate has %d names that are not a SPIFFE ID", n)
	}
	if len(c.URIs) != 1 {
		return fmt.Errorf("certificate has %d URIs, want exactly one", len(c.URIs))
	}
	raw := c.URIs[0].String()
	id, err := spiffeid.FromString(raw)
	if err != nil {
		return fmt.Errorf("URI %q: %w", raw, err)
	}
	if id.String() != raw {
		return fmt.Errorf("URI %q is not spelled as the SPIFFE ID %s", raw, id)
	}
	if id.TrustDomain() != e.td {
		return fmt.Errorf("trust domain %q is not %q", id.TrustDomain().Name(), e.td.Name())
	}
	if _, err := names.Ordinary(e.td, strings.TrimPrefix(id.Path(), "/")); err != nil {
		return err
	}
	if c.IsCA || c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return errors.New("certificate may sign others")
	}
	return checkKey(c.PublicKey)
}

// checkKey wants at least 128 bits of security, or RSA of 2048 bits for old clients.
func checkKey(key any) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= 2048 && n <= 8192 {
			return nil
		}
	}
	return errors.New("public key is none of P-256, P-384, P-521, Ed25519 and RSA of 2048 to 8192 bits")
}
