package ca_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/identity"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// at runs f on a clock that shows so much after an hour that all of these share.
func at(t *testing.T, offset time.Duration, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		<-time.After(time.Hour + offset)
		f(t)
	})
}

// TestClocks: a member whose clock is five minutes behind or ahead of the CA's takes a certificate that was made this
// moment, those of its peers, and the CA's own; and a CA that is behind or ahead renews its.
func TestClocks(t *testing.T) {
	const off = 5 * time.Minute
	var chain, server []*x509.Certificate
	var roots *x509bundle.Bundle
	dir := t.TempDir() + "/ca"
	var cert *tls.Certificate
	withCA := func(t *testing.T, f func(c *ca.CA, h http.Handler)) {
		db, err := store.Open(dir + "/store.db")
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		c, err := ca.Open(ca.Config{Dir: dir, DB: db, Host: "127.0.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f(c, c.Server(nil).Handler)
	}
	at(t, 0, func(t *testing.T) {
		create(t, dir)
		withCA(t, func(c *ca.CA, h http.Handler) {
			token, err := c.Token("orders", time.Hour, "127.0.0.1:1")
			if err != nil {
				t.Fatal(err)
			}
			key := newKey(t)
			w := httptest.NewRecorder()
			body := fmt.Sprintf(`{"csr": %q, "ott": %q}`, csr(t, key, "spiffe://example.test/orders"), token)
			h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/sign", strings.NewReader(body)))
			if w.Code != http.StatusCreated {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			cert, roots = signed(t, w.Body.Bytes(), key), c.Bundle()
			chain = chainOf(t, cert)
			own, err := c.Server(nil).TLSConfig.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			server = chainOf(t, own)
		})
	})
	for _, offset := range []time.Duration{-off, off} {
		at(t, offset, func(t *testing.T) {
			if _, err := identity.Verify(chain, roots); err != nil {
				t.Errorf("a member that is %v off: %v", offset, err)
			}
			pool, between := x509.NewCertPool(), x509.NewCertPool()
			pool.AddCert(roots.X509Authorities()[0])
			between.AddCert(server[1])
			if _, err := server[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, DNSName: "127.0.0.1"}); err != nil {
				t.Errorf("the CA's server, for a member that is %v off: %v", offset, err)
			}
			withCA(t, func(_ *ca.CA, h http.Handler) {
				r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/renew", http.NoBody)
				r.TLS = &tls.ConnectionState{PeerCertificates: chain}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != http.StatusCreated {
					t.Errorf("a CA that is %v off: %d %s", offset, w.Code, w.Body)
				}
			})
		})
	}
}

func create(t *testing.T, dir string) {
	t.Helper()
	if err := ca.Create(dir, trustDomain); err != nil {
		t.Fatal(err)
	}
	if err := store.Create(dir + "/store.db"); err != nil {
		t.Fatal(err)
	}
}
