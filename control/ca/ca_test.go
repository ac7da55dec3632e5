package ca_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/ca"
)

func TestEnrolAndRekey(t *testing.T) {
	s := serve(t, newDir(t), 0)
	cert := s.enrol(t, "billing/invoices")
	leaf := cert.Leaf
	if got := leaf.URIs[0].String(); got != "spiffe://example.test/billing/invoices" {
		t.Errorf("URI %s", got)
	}
	if life := time.Until(leaf.NotAfter); life < 23*time.Hour || life > 24*time.Hour {
		t.Errorf("certificate lives for %v", life)
	}
	key := newKey(t)
	status, body := s.post(t, "/rekey", map[string]string{"csr": csr(t, key)}, cert)
	if status != http.StatusCreated {
		t.Fatalf("rekey: %d %s", status, body)
	}
	next := signed(t, body, key)
	if next.Leaf.URIs[0].String() != leaf.URIs[0].String() || !key.PublicKey.Equal(next.Leaf.PublicKey) {
		t.Errorf("rekeyed into %s, key replaced: %v", next.Leaf.URIs[0], key.PublicKey.Equal(next.Leaf.PublicKey))
	}
	if status, body := s.post(t, "/renew", nil, next); status != http.StatusCreated {
		t.Errorf("renew: %d %s", status, body)
	}
}

func TestLifetimeOfMinutes(t *testing.T) {
	s := serve(t, newDir(t), 2*time.Minute)
	leaf := s.enrol(t, "orders").Leaf
	if life := time.Until(leaf.NotAfter); life < time.Minute || life > 2*time.Minute {
		t.Errorf("certificate lives for %v, want 2m", life)
	}
	if _, err := ca.Open(ca.Config{Dir: s.dir, Host: "127.0.0.1", Lifetime: time.Second}); err == nil {
		t.Error("a lifetime of 1s was accepted")
	}
}

// TestNotAfter: a client may ask for less than the CA's lifetime, and not for more.
func TestNotAfter(t *testing.T) {
	s := serve(t, newDir(t), time.Hour)
	for ask, want := range map[string]int{"5m": http.StatusCreated, "1h": http.StatusCreated, "62m": http.StatusForbidden, "-30s": http.StatusBadRequest} {
		key := newKey(t)
		status, body := s.post(t, "/sign", map[string]string{
			"csr": csr(t, key, "spiffe://example.test/orders"), "ott": s.token(t, "orders"), "notAfter": ask,
		}, nil)
		if status != want {
			t.Errorf("%s: %d %s", ask, status, body)
		}
	}
}

func TestTokenWorksOnce(t *testing.T) {
	dir := newDir(t)
	s := serve(t, dir, 0)
	used, fresh := s.token(t, "orders"), s.token(t, "orders")
	key := newKey(t)
	use := func(s *server, tok string) int {
		status, _ := s.post(t, "/sign", map[string]string{"csr": csr(t, key, "spiffe://example.test/orders"), "ott": tok}, nil)
		return status
	}
	// All at once: one wins.
	var wg sync.WaitGroup
	statuses := make([]int, 16)
	for i := range statuses {
		wg.Go(func() { statuses[i] = use(s, used) })
	}
	wg.Wait()
	won := 0
	for _, st := range statuses {
		switch st {
		case http.StatusCreated:
			won++
		case http.StatusUnauthorized:
		default:
			t.Errorf("status %d", st)
		}
	}
	if won != 1 {
		t.Errorf("a token was good for %d certificates", won)
	}
	s.stop()
	again := serve(t, dir, 0)
	if st := use(again, used); st != http.StatusUnauthorized {
		t.Errorf("used token after a restart: status %d", st)
	}
	if st := use(again, fresh); st != http.StatusCreated {
		t.Errorf("unused token after a restart: status %d", st)
	}
}

// TestRequestRefused asks, with a good token or certificate for orders, for what these do not cover. The answer
// tells what that was, and the token is as good as before.
func TestRequestRefused(t *testing.T) {
	s := serve(t, newDir(t), 0)
	const orders = "spiffe://example.test/orders"
	uri := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	const upn = "\x30\x0f\xa0\x0d\x06\x03\x2a\x03\x04\xa0\x06\x0c\x04root" // otherName 1.2.3.4 "root"
	token, cert := s.token(t, "orders"), s.enrol(t, "orders")
	for name, c := range map[string]struct {
		ask  x509.CertificateRequest
		want string
	}{
		"another service":      {x509.CertificateRequest{URIs: []*url.URL{uri("spiffe://example.test/payments")}}, `identity "spiffe://example.test/payments", but it can only have ` + orders},
		"the control plane":    {x509.CertificateRequest{URIs: []*url.URL{uri("spiffe://example.test/mesh/control")}}, "mesh/control"},
		"another trust domain": {x509.CertificateRequest{URIs: []*url.URL{uri("spiffe://example.test.evil/orders")}}, "example.test.evil"},
		"a second URI":         {x509.CertificateRequest{URIs: []*url.URL{uri(orders), uri("spiffe://example.test/payments")}}, "2 URIs, the second is"},
		"the same URI twice":   {x509.CertificateRequest{URIs: []*url.URL{uri(orders), uri(orders)}}, "2 URIs"},
		"a DNS name":           {x509.CertificateRequest{URIs: []*url.URL{uri(orders)}, DNSNames: []string{"bank.example"}}, `DNS name "bank.example"`},
		"an IP address":        {x509.CertificateRequest{URIs: []*url.URL{uri(orders)}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, "IP address 10.0.0.1"},
		"an e-mail address":    {x509.CertificateRequest{URIs: []*url.URL{uri(orders)}, EmailAddresses: []string{"root@bank.example"}}, `e-mail address "root@bank.example"`},
		"a common name":        {x509.CertificateRequest{Subject: pkix.Name{CommonName: "payments"}}, `common name "payments"`},
		"another kind of name": {x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte(upn)}}}, "of the kind 0"},
	} {
		t.Run(name, func(t *testing.T) {
			der, err := x509.CreateCertificateRequest(rand.Reader, &c.ask, newKey(t))
			if err != nil {
				t.Fatal(err)
			}
			text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
			for path, body := range map[string]any{"/sign": map[string]string{"csr": text, "ott": token}, "/rekey": map[string]string{"csr": text}} {
				status, answer := s.post(t, path, body, cert)
				var refusal struct{ Message string }
				if err := json.Unmarshal(answer, &refusal); err != nil || status != http.StatusForbidden || !strings.Contains(refusal.Message, c.want) {
					t.Errorf("%s: %d %s, want 403 and %q", path, status, answer, c.want)
				}
			}
		})
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Skip("no weak keys to be had:", err)
	}
	if status, body := s.post(t, "/sign", map[string]string{"csr": csr(t, weak, orders), "ott": s.token(t, "orders")}, nil); status < 400 || status >= 500 {
		t.Errorf("a weak key: %d %s", status, body)
	}
	key := newKey(t)
	if status, body := s.post(t, "/sign", map[string]string{"csr": csr(t, key), "ott": token}, nil); status != http.StatusCreated {
		t.Errorf("the token after all of this, and a request that leaves the name to it: %d %s", status, body)
	} else if u := signed(t, body, key).Leaf.URIs; len(u) != 1 || u[0].String() != orders {
		t.Errorf("certificate is for %v", u)
	}
}

func TestTokenRefuses(t *testing.T) {
	s := serve(t, newDir(t), 0)
	other := serve(t, newDir(t), 0)
	good := s.token(t, "orders")
	mangled := good[:len(good)-4] + "AAAA"
	elsewhere, err := s.Token("orders", time.Minute, "ca.elsewhere.test:443")
	if err != nil {
		t.Fatal(err)
	}
	late, err := s.Token("orders", time.Nanosecond, s.addr)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ token, want string }{
		"none":             {"", "not a signed JWT"},
		"rubbish":          {"a.b.c", "not a signed JWT"},
		"mangled":          {mangled, "not signed by this CA"},
		"another CA's":     {other.token(t, "orders"), "not signed by this CA"},
		"another audience": {elsewhere, "not for this CA"},
		"expired":          {late, "expired"},
	} {
		t.Run(name, func(t *testing.T) {
			key := newKey(t)
			status, body := s.post(t, "/sign", map[string]string{"csr": csr(t, key, "spiffe://example.test/orders"), "ott": c.token}, nil)
			if status != http.StatusUnauthorized || !strings.Contains(string(body), c.want) {
				t.Errorf("%d %s, want 401 and %q", status, body, c.want)
			}
		})
	}
	// Forgeries with its ID in them have not burned the good one.
	key := newKey(t)
	if status, body := s.post(t, "/sign", map[string]string{"csr": csr(t, key, "spiffe://example.test/orders"), "ott": good}, nil); status != http.StatusCreated {
		t.Errorf("good token after its forgeries: %d %s", status, body)
	}
	for _, service := range []string{"", "mesh", "mesh/control", "Orders", "a//b", "/a", "a/", "../a", "a.b", "a b", strings.Repeat("a", 64), strings.Repeat("a/", 127)} {
		if _, err := s.Token(service, time.Minute, s.addr); err == nil {
			t.Errorf("token for %q", service)
		}
	}
}
