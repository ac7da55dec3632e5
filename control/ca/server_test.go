package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var trustDomain = spiffeid.RequireTrustDomainFromString("example.test")

// A server is a CA on a loopback port, over real HTTPS.
type server struct {
	*ca.CA
	dir  string
	addr string
	stop func()
}

func newDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir() + "/ca"
	if err := errors.Join(ca.Create(dir, trustDomain), store.Create(dir+"/store.db")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// open returns the CA of a directory, and what closes it and its store.
func open(t testing.TB, dir string, lifetime time.Duration) (c *ca.CA, end func() error) {
	t.Helper()
	db, err := store.Open(dir + "/store.db")
	if err != nil {
		t.Fatal(err)
	}
	c, err = ca.Open(ca.Config{Dir: dir, DB: db, Host: "127.0.0.1", Lifetime: lifetime})
	if err != nil {
		t.Fatal(err)
	}
	return c, func() error { return errors.Join(c.Close(), db.Close()) }
}

func serve(t *testing.T, dir string, lifetime time.Duration) *server {
	t.Helper()
	c, end := open(t, dir, lifetime)
	return serveCA(t, c, dir, end)
}

func serveCA(t *testing.T, c *ca.CA, dir string, end func() error) *server {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := c.Server(nil)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ServeTLS(ln, "", "") }) // ErrServerClosed
	s := &server{CA: c, dir: dir, addr: ln.Addr().String()}
	s.stop = sync.OnceFunc(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if err := end(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *server) token(t *testing.T, service string) string {
	t.Helper()
	tok, err := s.Token(service, time.Minute, s.addr)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// post sends body to path, with a client certificate if there is one.
func (s *server) post(t *testing.T, path string, body any, cert *tls.Certificate) (int, []byte) {
	t.Helper()
	roots := x509.NewCertPool()
	for _, r := range s.Bundle().X509Authorities() {
		roots.AddCert(r)
	}
	cfg := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	if cert != nil { // not Certificates: those are only sent when they fit what the server asks for
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.addr+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, out
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func csr(t *testing.T, key crypto.Signer, uris ...string) string {
	t.Helper()
	req := &x509.CertificateRequest{}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		req.URIs = append(req.URIs, u)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, req, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// signed returns the certificate in an answer to sign, renew or rekey.
func signed(t *testing.T, body []byte, key crypto.Signer) *tls.Certificate {
	t.Helper()
	var resp struct {
		Chain []string `json:"certChain"`
	}
	if err := json.Unmarshal(body, &resp); err != nil || len(resp.Chain) == 0 {
		t.Fatalf("answer %s: %v", body, err)
	}
	c := &tls.Certificate{PrivateKey: key}
	for _, p := range resp.Chain {
		b, _ := pem.Decode([]byte(p))
		c.Certificate = append(c.Certificate, b.Bytes)
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	c.Leaf = leaf
	return c
}

func (s *server) enrol(t *testing.T, service string) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	status, body := s.post(t, "/1.0/sign", map[string]string{"csr": csr(t, key, "spiffe://example.test/"+service), "ott": s.token(t, service)}, nil)
	if status != http.StatusCreated {
		t.Fatalf("sign: %d %s", status, body)
	}
	return signed(t, body, key)
}
