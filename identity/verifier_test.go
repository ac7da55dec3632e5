package identity_test

import (
	"crypto/rand"
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

// TestVerifyUntil: the root that vouches ends too, and of two that do the later one counts.
func TestVerifyUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t, "prod.example")
		svid, err := ca.SVID("orders")
		if err != nil {
			t.Fatal(err)
		}
		leaf := svid.Certificates[0].NotAfter
		short := *ca.Root
		short.NotAfter = time.Now().Add(20 * time.Minute).Truncate(time.Second)
		der, err := x509.CreateCertificate(rand.Reader, &short, &short, ca.Root.PublicKey, ca.RootKey)
		if err != nil {
			t.Fatal(err)
		}
		again, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			roots []*x509.Certificate
			want  time.Time
		}{
			"the leaf ends first":       {[]*x509.Certificate{ca.Root}, leaf},
			"the root ends first":       {[]*x509.Certificate{again}, short.NotAfter},
			"one of two roots lasts":    {[]*x509.Certificate{again, ca.Root}, leaf},
			"one of two, the other way": {[]*x509.Certificate{ca.Root, again}, leaf},
		} {
			v := identity.NewVerifier(x509bundle.FromX509Authorities(ca.TrustDomain(), c.roots))
			for range 2 { // verified, and remembered
				if _, until, err := v.VerifyUntil(svid.Certificates); err != nil || !until.Equal(c.want) {
					t.Errorf("%s: until %v, %v; want %v", name, until, err, c.want)
				}
			}
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

func TestVerifierShares(t *testing.T) {
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString("prod.example"))
	if err != nil {
		t.Fatal(err)
	}
	v := identity.NewVerifier(ca.Bundle())
	svid, err := ca.SVID("orders")
	if err != nil {
		t.Fatal(err)
	}
	// shown parses the chain anew, as TLS does, and shares it.
	shown := func(verify bool) []*x509.Certificate {
		var chain []*x509.Certificate
		for _, c := range svid.Certificates {
			parsed, err := x509.ParseCertificate(c.Raw)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, parsed)
		}
		if verify {
			if _, err := v.Verify(chain); err != nil {
				t.Fatal(err)
			}
		}
		v.Share(chain)
		return chain
	}
	if a, b := shown(false), shown(false); a[0] == b[0] || a[1] == b[1] {
		t.Error("a chain is shared that nobody verified")
	}
	if a, b := shown(true), shown(true); a[0] != b[0] || a[1] != b[1] {
		t.Error("equal chains are not shared")
	}
	// More issuers than are kept: each is shared with the next that comes, and none taken for another.
	for range 20 {
		other, err := testca.New(spiffeid.RequireTrustDomainFromString("prod.example"))
		if err != nil {
			t.Fatal(err)
		}
		v = identity.NewVerifier(other.Bundle())
		if svid, err = other.SVID("orders"); err != nil {
			t.Fatal(err)
		}
		if a := shown(true); !a[0].Equal(svid.Certificates[0]) || !a[1].Equal(svid.Certificates[1]) {
			t.Fatal("another certificate took the place of the one that was shown")
		}
	}
}
