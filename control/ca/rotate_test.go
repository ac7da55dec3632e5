package ca_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/identity"
)

func serveSealed(t *testing.T) *server {
	t.Helper()
	dir := newDir(t)
	db, err := store.Open(dir + "/store.db")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ca.Open(ca.Config{Dir: dir, DB: db, Host: "127.0.0.1", SealKey: store.NewSealKey()})
	if err != nil {
		t.Fatal(err)
	}
	return serveCA(t, c, dir, func() error { return errors.Join(c.Close(), db.Close()) })
}

// issuedBy reports which of an authority's intermediates signed a certificate.
func issuedBy(t *testing.T, a *ca.Authorities, c *tls.Certificate) int {
	t.Helper()
	for i, is := range a.Trusted {
		if bytes.Equal(is.Intermediate, c.Certificate[1]) {
			return i
		}
	}
	return -1
}

// TestAuthorities takes a CA through the states of a rotation.
func TestAuthorities(t *testing.T) {
	s := serveSealed(t)
	first := s.Fingerprint()
	old := s.enrol(t, "orders")
	a := s.Current()
	next, err := s.NewIssuer()
	if err != nil || len(next.Cross) == 0 {
		t.Fatalf("cross-signed by %d bytes, %v", len(next.Cross), err)
	}
	if info, err := os.Stat(filepath.Join(s.dir, "root-"+fingerprintOf(t, next.Root)[:16]+".key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the new root's key: %v, %v", info, err)
	}
	a.Trusted = append(a.Trusted, next)
	if err := s.Use(a); err != nil {
		t.Fatal(err)
	}
	if got := issuedBy(t, a, s.enrol(t, "orders")); got != 0 || len(s.Bundle().X509Authorities()) != 2 {
		t.Errorf("while it is added, issued by %d", got)
	}
	a.Active = 1
	if err := s.Use(a); err != nil {
		t.Fatal(err)
	}
	renewed, refused := s.rekey(t, old)
	if refused != "" || issuedBy(t, a, renewed) != 1 {
		t.Fatalf("renewed by %d: %s", issuedBy(t, a, renewed), refused)
	}
	if _, err := identity.Verify(chainOf(t, renewed), s.Bundle()); err != nil {
		t.Error(err)
	}
	a.Trusted, a.Active, a.Former = a.Trusted[1:], 0, [][]byte{a.Trusted[0].Root}
	if err := s.Use(a); err != nil {
		t.Fatal(err)
	}
	if s.Fingerprint() == first || len(s.Bundle().X509Authorities()) != 1 {
		t.Error("the old root is still there")
	}
	if _, refused := s.rekey(t, old); refused == "" {
		t.Error("a certificate of a retired root was renewed")
	}
	if _, refused := s.rekey(t, renewed); refused != "" {
		t.Error(refused)
	}
	// Who only knows the old root finds the new one.
	src, err := identity.NewStepCA(t.Context(), identity.StepCAConfig{URL: "https://" + s.addr, RootFingerprint: first, Token: s.mint(t, "orders", "spiffe://example.test/orders")})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	b, err := src.GetX509BundleForTrustDomain(trustDomain)
	if err != nil || !b.Equal(s.Bundle()) {
		t.Errorf("it trusts %v, %v", b, err)
	}
	// And without the key of the root before there is no such way.
	if err := os.Remove(filepath.Join(s.dir, "root-"+fingerprintOf(t, next.Root)[:16]+".key")); err != nil {
		t.Fatal(err)
	}
	if other, err := s.NewIssuer(); err != nil || len(other.Cross) > 0 {
		t.Errorf("%v", err)
	} else if err := s.ForgetRootKey(other); err != nil {
		t.Error(err)
	}
	a.Trusted[0].Key[0] ^= 1
	if err := s.Use(a); err == nil {
		t.Error("a damaged key was used")
	}
}

// TestImport: an intermediate from elsewhere must belong together, and be held to the trust domain.
func TestImport(t *testing.T) {
	s, other := serveSealed(t), newDir(t)
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(other, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	root, intermediate, key := read("root.crt"), read("intermediate.crt"), read("intermediate.key")
	is, err := s.Import(ca.Brought{Root: root, Intermediate: intermediate, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	a := s.Current()
	a.Trusted, a.Active = append(a.Trusted, is), 1
	if err := s.Use(a); err != nil {
		t.Fatal(err)
	}
	if got := issuedBy(t, a, s.enrol(t, "orders")); got != 1 {
		t.Errorf("issued by %d", got)
	}
	for name, c := range map[string]struct {
		root, intermediate, key []byte
		want                    string
	}{
		"no root":          {nil, intermediate, key, "the root: want one PEM block"},
		"another root":     {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Current().Trusted[0].Root}), intermediate, key, "not signed by the root"},
		"another key":      {root, intermediate, read("root.key"), "does not belong"},
		"not held to it":   {root, root, read("root.key"), "not constrained"},
		"a certificate as": {root, intermediate, root, "the key: want one PEM block"},
	} {
		if _, err := s.Import(ca.Brought{Root: c.root, Intermediate: c.intermediate, Key: c.key}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestRootOfNobody: what the CA never had it does not hand out.
func TestRootOfNobody(t *testing.T) {
	s := serve(t, newDir(t), 0)
	w := newRecorder(t, s.Server(nil).Handler, "/root/"+strings.Repeat("ab", 32))
	var answer struct{ CA string }
	if w.Code != http.StatusNotFound || json.Unmarshal(w.Body.Bytes(), &answer) == nil && answer.CA != "" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func fingerprintOf(t *testing.T, der []byte) string {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca.Fingerprint(c)
}

func newRecorder(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
	return w
}

func chainOf(t *testing.T, c *tls.Certificate) (chain []*x509.Certificate) {
	t.Helper()
	for _, der := range c.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, cert)
	}
	return chain
}
