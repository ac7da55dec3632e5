package identity_test

import (
	"strings"
	"testing"

	"github.com/intramesh/mesh/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestCredential(t *testing.T) {
	ca, friend := newCA(t, "prod.example"), newCA(t, "friend.example")
	own, err := ca.SVID("orders")
	if err != nil {
		t.Fatal(err)
	}
	c := identity.NewCredential(identity.Static(own, ca.Bundle(), friend.Bundle()))
	first, err := c.Certificate()
	if err != nil || first.Leaf != own.Certificates[0] || len(first.Certificate) != len(own.Certificates) {
		t.Fatalf("Certificate = %+v, %v", first, err)
	}
	if again, _ := c.Certificate(); again != first {
		t.Error("the same certificate is made anew")
	}
	peer, err := ca.SVID("billing/invoices")
	if err != nil {
		t.Fatal(err)
	}
	if service, err := c.VerifyMember(peer.Certificates); service != "billing/invoices" || err != nil {
		t.Errorf("VerifyMember = %q, %v", service, err)
	}
	// Trusted, yet of another trust domain.
	if peer, err = friend.SVID("payments"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Verify(peer.Certificates); err != nil {
		t.Error(err)
	}
	if service, err := c.VerifyMember(peer.Certificates); err == nil || !strings.Contains(err.Error(), "prod.example") {
		t.Errorf("VerifyMember = %q, %v", service, err)
	}
	if service, err := c.VerifyMember(nil); err == nil {
		t.Errorf("VerifyMember of nothing = %q", service)
	}
	none := identity.NewCredential(identity.Static((*x509svid.SVID)(nil), []*x509bundle.Bundle{ca.Bundle()}...))
	if _, err := none.Certificate(); err == nil {
		t.Error("a certificate from nowhere")
	}
}
