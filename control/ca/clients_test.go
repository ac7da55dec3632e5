package ca_test

import (
	"crypto"
	"testing"
	"time"

	"github.com/intramesh/mesh/identity"
	stepca "github.com/smallstep/certificates/ca"
)

// TestOwnClient enrols and renews as every member does, with certificates so short that the first
// renewal is due after some twenty seconds.
func TestOwnClient(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a renewal")
	}
	t.Parallel()
	s := serve(t, newDir(t), time.Minute)
	dir := t.TempDir()
	cfg := identity.StepCAConfig{URL: "https://" + s.addr, RootFingerprint: s.Fingerprint(), Token: s.token(t, "billing/invoices"), Dir: dir}
	src, err := identity.NewStepCA(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	first, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := identity.Verify(first.Certificates, src); err != nil {
		t.Error(err)
	}
	select {
	case <-src.Changed():
	case <-time.After(45 * time.Second):
		t.Fatal("not renewed")
	}
	next, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if next.ID != first.ID || first.PrivateKey.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(next.PrivateKey.Public()) {
		t.Errorf("renewed %s into %s, with the same key", first.ID, next.ID)
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := identity.NewStepCA(t.Context(), cfg) // the token is used: from Dir
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestStepClient: what serves step's own client serves anybody's.
func TestStepClient(t *testing.T) {
	s := serve(t, newDir(t), 0)
	client, err := stepca.Bootstrap(s.token(t, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	if h, err := client.Health(); err != nil || h.Status != "ok" {
		t.Errorf("health: %+v, %v", h, err)
	}
	roots, err := client.Roots()
	if err != nil || len(roots.Certificates) != 1 {
		t.Fatalf("roots: %+v, %v", roots, err)
	}
	req, key, err := stepca.CreateSignRequest(s.token(t, "orders"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Sign(req)
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.ServerPEM.URIs[0].String(); got != "spiffe://example.test/orders" {
		t.Errorf("signed for %s", got)
	}
	tr, err := client.Transport(t.Context(), resp, key)
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := tr.(interface{ CloseIdleConnections() }); ok {
		defer c.CloseIdleConnections()
	}
	renewed, err := client.Renew(tr)
	if err != nil || renewed.ServerPEM.URIs[0].String() != "spiffe://example.test/orders" {
		t.Errorf("renewed: %v", err)
	}
}
