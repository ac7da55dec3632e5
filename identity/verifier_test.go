package identity_test

import (
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// replaceable is a source whose bundle can be replaced.
type replaceable struct {
	bundle *x509bundle.Bundle
}

func (c *replaceable) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return c.bundle.GetX509BundleForTrustDomain(td)
}

func TestVerifierForgets(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("prod.example")
	newCA := func(t *testing.T) *testca.CA {
		ca, err := testca.New(td)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	chainOf := func(t *testing.T, ca *testca.CA, edit ...func(*x509.Certificate)) []*x509.Certificate {
		svid, err := ca.SVID("orders", edit...)
		if err != nil {
			t.Fatal(err)
		}
		return svid.Certificates
	}
	for name, spoil := range map[string]func(t *testing.T, src *replaceable){
		"a certificate that has expired": func(*testing.T, *replaceable) { <-time.After(2 * time.Hour) },
		"another bundle":                 func(t *testing.T, src *replaceable) { src.bundle = newCA(t).Bundle() },
		"a bundle changed in place": func(_ *testing.T, src *replaceable) {
			for _, a := range src.bundle.X509Authorities() {
				src.bundle.RemoveX509Authority(a)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newCA(t)
				src := &replaceable{bundle: ca.Bundle()}
				v := identity.NewVerifier(src)
				chain := chainOf(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })
				for range 2 {
					if id, err := v.Verify(chain); err != nil || id.String() != "spiffe://prod.example/orders" {
						t.Fatal(id, err)
					}
				}
				spoil(t, src)
				if id, err := v.Verify(chain); err == nil {
					t.Errorf("%v passed", id)
				}
			})
		})
	}
	t.Run("another leaf under the same chain", func(t *testing.T) {
		ca := newCA(t)
		v := identity.NewVerifier(ca.Bundle())
		if _, err := v.Verify(chainOf(t, ca)); err != nil {
			t.Fatal(err)
		}
		forged := chainOf(t, newCA(t))
		forged = append(forged[:1:1], chainOf(t, ca)[1:]...)
		if id, err := v.Verify(forged); err == nil {
			t.Errorf("%v passed", id)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString("prod.example"))
	if err != nil {
		b.Fatal(err)
	}
	svid, err := ca.SVID("orders")
	if err != nil {
		b.Fatal(err)
	}
	v := identity.NewVerifier(ca.Bundle())
	for name, verify := range map[string]func([]*x509.Certificate) (spiffeid.ID, error){
		"remembered": v.Verify,
		"anew":       func(c []*x509.Certificate) (spiffeid.ID, error) { return identity.Verify(c, ca.Bundle()) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := verify(svid.Certificates); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
