package identity_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// rawURIs replaces the SANs by URIs as they are spelled, which a *url.URL would tidy up.
func rawURIs(t *testing.T, uris ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		var names []asn1.RawValue
		for _, u := range uris {
			names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(u)})
		}
		der, err := asn1.Marshal(names)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = nil
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der})
	}
}

func TestVerify(t *testing.T) {
	ca := newCA(t, "prod.example")
	uri := func(s string) func(*x509.Certificate) { return rawURIs(t, s) }
	tests := []struct {
		name string
		edit func(*x509.Certificate)
		want string // part of the error; empty: accepted
	}{
		{"as issued", func(*x509.Certificate) {}, ""},
		{"with a DNS name too", func(c *x509.Certificate) { c.DNSNames = []string{"payments.internal"} }, ""},
		{"no extended key usage", func(c *x509.Certificate) { c.ExtKeyUsage = nil }, ""},
		{"any extended key usage", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, ""},
		{"two URI SANs", rawURIs(t, "spiffe://prod.example/payments", "spiffe://prod.example/admin"), "2 URI SANs"},
		{"two equal URI SANs", rawURIs(t, "spiffe://prod.example/payments", "spiffe://prod.example/payments"), "2 URI SANs"},
		{"no SAN", func(c *x509.Certificate) { c.URIs, c.Subject.CommonName = nil, "spiffe://prod.example/payments" }, "0 URI SANs"},
		{"DNS only", func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"payments"} }, "0 URI SANs"},
		{"not SPIFFE", uri("https://prod.example/payments"), "not a SPIFFE ID"},
		{"upper-case scheme", uri("SPIFFE://prod.example/payments"), "not a SPIFFE ID"},
		{"upper-case trust domain", uri("spiffe://Prod.example/payments"), "not a SPIFFE ID"},
		{"query", uri("spiffe://prod.example/payments?a=b"), "not a SPIFFE ID"},
		{"empty query", uri("spiffe://prod.example/payments?"), "not a SPIFFE ID"},
		{"fragment", uri("spiffe://prod.example/payments#x"), "not a SPIFFE ID"},
		{"empty fragment", uri("spiffe://prod.example/payments#"), "not a SPIFFE ID"},
		{"user", uri("spiffe://admin@prod.example/payments"), "not a SPIFFE ID"},
		{"port", uri("spiffe://prod.example:443/payments"), "not a SPIFFE ID"},
		{"escaped path", uri("spiffe://prod.example/p%61yments"), "not a SPIFFE ID"},
		{"dot segment", uri("spiffe://prod.example/orders/../payments"), "not a SPIFFE ID"},
		{"empty segment", uri("spiffe://prod.example//payments"), "not a SPIFFE ID"},
		{"trailing slash", uri("spiffe://prod.example/payments/"), "not a SPIFFE ID"},
		{"no path", uri("spiffe://prod.example"), "no path"},
		{"2049 bytes", uri("spiffe://prod.example/" + strings.Repeat("a", 2049-len("spiffe://prod.example/"))), "longer than 2048"},
		{"2048 bytes", uri("spiffe://prod.example/" + strings.Repeat("a", 2048-len("spiffe://prod.example/"))), ""},
		{"another trust domain", uri("spiffe://dev.example/payments"), "bundle"},
		{"trust domain with a tail", uri("spiffe://prod.example.evil/payments"), "bundle"},
		{"sub-domain, which the name constraint admits", uri("spiffe://sub.prod.example/payments"), "bundle"},
		{"a CA", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, "CA flag"},
		{"signs certificates", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, "KeyCertSign"},
		{"signs revocation lists", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }, "KeyCrlSign"},
		{"no digital signature", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }, "digitalSignature"},
		{"server only", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "clientAuth"},
		{"client only", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, "serverAuth"},
		{"code signing", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }, "extended key usage"},
		{"expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, "expired"},
		{"not yet valid", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, "not yet valid"},
		{"unknown critical extension", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}, "unhandled critical"},
		{"too large", func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 64<<10)}}
		}, "larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			svid, err := ca.SVID("payments", tt.edit)
			if err != nil {
				t.Fatal(err)
			}
			id, err := identity.Verify(svid.Certificates, ca.Bundle())
			wantVerify(t, id, err, tt.want)
		})
	}
}

func wantVerify(t *testing.T, id spiffeid.ID, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil || !strings.HasPrefix(id.String(), "spiffe://prod.example/") {
			t.Errorf("Verify = %v, %v; want it accepted", id, err)
		}
		return
	}
	var typed *identity.VerifyError
	if !errors.As(err, &typed) || !id.IsZero() {
		t.Fatalf("Verify = %v, %v; want a *VerifyError and no ID", id, err)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not tell %q", err, want)
	}
}

func TestVerifyChain(t *testing.T) {
	ca, evil := newCA(t, "prod.example"), newCA(t, "evil.example")
	svid, err := ca.SVID("payments")
	if err != nil {
		t.Fatal(err)
	}
	forged, err := evil.SVID("payments", rawURIs(t, "spiffe://prod.example/payments"))
	if err != nil {
		t.Fatal(err)
	}
	leaf, inter := svid.Certificates[0], svid.Certificates[1]

	both := x509bundle.NewSet(ca.Bundle(), evil.Bundle())
	// A bundle source that confuses trust domains must not make one CA speak for another domain.
	wrongBundle := sourceFunc(func(spiffeid.TrustDomain) (*x509bundle.Bundle, error) { return evil.Bundle(), nil })
	noBundle := sourceFunc(func(spiffeid.TrustDomain) (*x509bundle.Bundle, error) { return nil, nil })

	tests := []struct {
		name    string
		chain   []*x509.Certificate
		bundles x509bundle.Source
		want    string
	}{
		{"as issued", svid.Certificates, both, ""},
		{"eight certificates", append([]*x509.Certificate{leaf}, slices.Repeat([]*x509.Certificate{inter}, 7)...), both, ""},
		{"nine certificates", append([]*x509.Certificate{leaf}, slices.Repeat([]*x509.Certificate{inter}, 8)...), both, "longer than 8"},
		{"nothing", nil, both, "no certificate"},
		{"intermediate missing", svid.Certificates[:1], both, "unknown authority"},
		{"the intermediate itself", []*x509.Certificate{inter, ca.Root}, both, "0 URI SANs"},
		{"another federated CA", forged.Certificates, both, "unknown authority"},
		{"an intermediate for mail", mailChain(t, ca), ca.Bundle(), "extended key usage"},
		{"another CA", forged.Certificates, ca.Bundle(), "unknown authority"},
		{"bundle of another trust domain", forged.Certificates, wrongBundle, "no bundle of trust domain"},
		{"no bundle and no error", svid.Certificates, noBundle, "no bundle of trust domain"},
		{"no source", svid.Certificates, nil, "no trust bundles"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, err := identity.Verify(tt.chain, tt.bundles)
			wantVerify(t, id, err, tt.want)
		})
	}

	_, err = identity.Verify(forged.Certificates, both)
	var typed *identity.VerifyError
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &typed) || !errors.As(err, &unknown) {
		t.Fatalf("error %#v hides its cause", err)
	}
	if typed.ID.String() != "spiffe://prod.example/payments" || typed.Serial != forged.Certificates[0].SerialNumber.Text(16) {
		t.Errorf("error describes %v %s", typed.ID, typed.Serial)
	}
}

// mailChain has a leaf for TLS below an intermediate that is not.
func mailChain(t *testing.T, ca *testca.CA) []*x509.Certificate {
	t.Helper()
	mail := *ca
	template := *ca.Intermediate
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.Root, ca.IntermediateKey.Public(), ca.RootKey)
	if err != nil {
		t.Fatal(err)
	}
	if mail.Intermediate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	svid, err := mail.SVID("payments")
	if err != nil {
		t.Fatal(err)
	}
	return svid.Certificates
}

type sourceFunc func(spiffeid.TrustDomain) (*x509bundle.Bundle, error)

func (f sourceFunc) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return f(td)
}

// A name constraint of the intermediate holds even where the bundle's owner would be believed.
func TestVerifyNameConstraint(t *testing.T) {
	ca := newCA(t, "prod.example")
	svid, err := ca.SVID("payments", rawURIs(t, "spiffe://other.example/payments"))
	if err != nil {
		t.Fatal(err)
	}
	other := x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("other.example"), []*x509.Certificate{ca.Root})
	_, err = identity.Verify(svid.Certificates, other)
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.CANotAuthorizedForThisName {
		t.Errorf("error %v; want the name constraint", err)
	}
}

// crypto/x509 refuses to parse these; Verify must not depend on it.
func TestVerifyUnparsable(t *testing.T) {
	ca := newCA(t, "prod.example")
	svid, err := ca.SVID("payments")
	if err != nil {
		t.Fatal(err)
	}
	for _, spelled := range []string{"spiffe://prod.example/payments\x00.evil", "spiffe://prod.example/pay\nments", "spiffe://prod.example/p\xc3\xa9"} {
		fake := *svid.Certificates[0]
		fake.URIs = []*url.URL{svid.ID.URL()}
		var edited x509.Certificate
		rawURIs(t, spelled)(&edited)
		fake.Extensions = edited.ExtraExtensions
		_, err := identity.Verify([]*x509.Certificate{&fake, ca.Intermediate}, ca.Bundle())
		wantVerify(t, spiffeid.ID{}, err, "not a SPIFFE ID")
		if _, err := ca.SVID("payments", rawURIs(t, spelled)); err == nil {
			t.Errorf("crypto/x509 parses %q now: move the case to TestVerify", spelled)
		}
	}
	garbage := *svid.Certificates[0]
	garbage.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte{0x30, 0x7f}}}
	_, err = identity.Verify([]*x509.Certificate{&garbage}, ca.Bundle())
	wantVerify(t, spiffeid.ID{}, err, "malformed")
}

func TestVerifyFollowsClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t, "prod.example")
		svid, err := ca.SVID("payments")
		if err != nil {
			t.Fatal(err)
		}
		id, err := identity.Verify(svid.Certificates, ca.Bundle())
		wantVerify(t, id, err, "")
		<-time.After(testca.LeafLifetime + time.Second)
		id, err = identity.Verify(svid.Certificates, ca.Bundle())
		wantVerify(t, id, err, "expired")
	})
}

func TestStatic(t *testing.T) {
	ca, other := newCA(t, "prod.example"), newCA(t, "other.example")
	svid, err := ca.SVID("billing/invoices")
	if err != nil {
		t.Fatal(err)
	}
	s := identity.Static(svid, ca.Bundle(), other.Bundle())
	if got, err := s.GetX509SVID(); err != nil || identity.ServiceName(got.ID) != "billing/invoices" {
		t.Errorf("GetX509SVID = %v, %v", got, err)
	}
	for _, c := range []*testca.CA{ca, other} {
		if b, err := s.GetX509BundleForTrustDomain(c.TrustDomain()); err != nil || !b.Equal(c.Bundle()) {
			t.Errorf("bundle of %s: %v", c.TrustDomain(), err)
		}
	}
	if _, err := identity.Static(nil, ca.Bundle()).GetX509SVID(); err == nil {
		t.Error("a source without SVID handed one out")
	}
}

// The subject alternative names are what a peer writes and Verify parses by itself.
func FuzzVerify(f *testing.F) {
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString("prod.example"))
	if err != nil {
		f.Fatal(err)
	}
	svid, err := ca.SVID("payments")
	if err != nil {
		f.Fatal(err)
	}
	san := asn1.ObjectIdentifier{2, 5, 29, 17}
	for _, ext := range svid.Certificates[0].Extensions {
		if ext.Id.Equal(san) {
			f.Add(ext.Value)
		}
	}
	f.Add([]byte{0x30, 0x82, 0xff, 0xff, 0x86, 0x80})
	f.Fuzz(func(t *testing.T, value []byte) {
		leaf := *svid.Certificates[0] // what crypto/x509 read stays, as if the two readers differed
		leaf.Extensions = []pkix.Extension{{Id: san, Value: value}}
		id, err := identity.Verify([]*x509.Certificate{&leaf, ca.Intermediate}, ca.Bundle())
		if err == nil && id != svid.ID {
			t.Errorf("accepted as %v", id)
		}
		if err != nil && !id.IsZero() {
			t.Errorf("refused and yet %v", id)
		}
	})
}
