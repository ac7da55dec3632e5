package enrol

import (
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/intramesh/mesh/internal/wire"
	"go.step.sm/crypto/jose"
)

// X509 lets the certificates of another authority enrol: those of machines, of a cloud, of a former mesh. The process
// signs a token with its certificate's key, as for step-ca's X5C provisioner, for one certificate request. Whether that
// authority has revoked the certificate is not asked.
type X509 struct {
	// RootsFile has the authorities, PEM. It is read at the start.
	RootsFile string `yaml:"roots_file"`
	// Names say which certificates may be which services.
	Names []Name `yaml:"names"`
}

// A Name maps certificates to a service. Exactly one of URI, DNS and CommonName is set.
type Name struct {
	// URI, DNS and CommonName are a name in the certificate, or a pattern with a "*" at one end.
	URI        string `yaml:"uri,omitempty"`
	DNS        string `yaml:"dns,omitempty"`
	CommonName string `yaml:"common_name,omitempty"`
	// Service is a service's name. In it {*} stands for what the star matched.
	Service string `yaml:"service"`
}

// authority is X509 at work.
type authority struct {
	X509
	roots *x509.CertPool
}

func newAuthority(x X509) (*authority, error) {
	if x.RootsFile == "" {
		return nil, errors.New("roots_file is missing")
	}
	if len(x.Names) == 0 {
		return nil, errors.New("names is missing: nobody could enrol")
	}
	for i, n := range x.Names {
		if set := min(1, len(n.URI)) + min(1, len(n.DNS)) + min(1, len(n.CommonName)); set != 1 {
			return nil, fmt.Errorf("names[%d]: want one of uri, dns and common_name", i)
		}
		if err := checkPattern(strings.ReplaceAll(n.Service, "{*}", "x")); err != nil || strings.Contains(strings.ReplaceAll(n.Service, "{*}", ""), "*") {
			return nil, fmt.Errorf("names[%d]: service %q is not a service's name", i, n.Service)
		}
	}
	pem, err := os.ReadFile(x.RootsFile)
	if err != nil {
		return nil, err
	}
	a := &authority{x, x509.NewCertPool()}
	if !a.roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("roots_file %s holds no certificate", x.RootsFile)
	}
	return a, nil
}

// maxProofLife is how long the token that a process signs may be valid. Its clock may be clockSkew off.
const (
	maxProofLife = 10 * time.Minute
	clockSkew    = 5 * time.Minute
	maxX5C       = 8
)

// checkX509 returns the subject of the certificate that has proved itself.
func (g *Gate) checkX509(a ask) (who string, err error) {
	if len(g.x509) == 0 {
		return "", refuse("this control plane knows no authority for certificates (enrol.x509 in its settings)")
	}
	t, err := jose.ParseSigned(a.proof)
	if err != nil || len(t.Headers) != 1 {
		return "", refuse("the proof is not a signed JWT")
	}
	err = refuse("the certificate is of none of the authorities in enrol.x509")
	for _, authority := range g.x509 {
		chains, verr := t.Headers[0].Certificates(x509.VerifyOptions{Roots: authority.roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		if verr != nil {
			continue
		}
		leaf := chains[0][0]
		who = leaf.Subject.String()
		if err := g.checkClaims(t, leaf, a); err != nil {
			return who, err
		}
		if authority.allows(leaf, a.service) {
			return who, nil
		}
		err = refuse("the certificate of %s may not be %s: no entry of enrol.x509 says so", quoted(who), a.service)
	}
	return who, err
}

func quoted(s string) string { return fmt.Sprintf("%.200q", s) }

func (g *Gate) checkClaims(t *jose.JSONWebToken, leaf *x509.Certificate, a ask) error {
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || leaf.IsCA {
		return refuse("the certificate is not for signing (key usage digitalSignature, and no authority)")
	}
	var c struct {
		jose.Claims
		Confirmation struct {
			CSR string `json:"x5rt#S256"`
		} `json:"cnf"`
	}
	if err := t.Claims(leaf.PublicKey, &c); err != nil {
		return refuse("the proof is not signed with the key of its certificate")
	}
	now := time.Now()
	switch {
	case c.Expiry == nil || c.IssuedAt == nil || c.Expiry.Time().Sub(c.IssuedAt.Time()) > maxProofLife:
		return refuse("the proof must say when it was made, and expire within %v of that", maxProofLife)
	case now.After(c.Expiry.Time().Add(clockSkew)) || c.IssuedAt.Time().After(now.Add(clockSkew)):
		return refuse("the proof is valid from %s to %s, and here it is %s: is a clock wrong?",
			c.IssuedAt.Time().UTC().Format(time.RFC3339), c.Expiry.Time().UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case !c.Audience.Contains(wire.EnrolAudience(g.cfg.TrustDomain)):
		return refuse("the proof is for another mesh")
	case c.Subject != a.service || subtle.ConstantTimeCompare([]byte(c.Confirmation.CSR), []byte(a.csr)) != 1:
		return refuse("the proof is for another request")
	}
	return nil
}

func (x *authority) allows(leaf *x509.Certificate, service string) bool {
	for _, n := range x.Names {
		var names []string
		pattern := n.URI + n.DNS + n.CommonName // one of them is set
		switch {
		case n.URI != "":
			for _, u := range leaf.URIs {
				names = append(names, u.String())
			}
		case n.DNS != "":
			names = leaf.DNSNames
		default:
			names = []string{leaf.Subject.CommonName}
		}
		for _, name := range names {
			if rest, ok := match(pattern, name); ok && strings.ReplaceAll(n.Service, "{*}", rest) == service {
				return true
			}
		}
	}
	return false
}
