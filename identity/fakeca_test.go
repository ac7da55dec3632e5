package identity_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/memnet"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/internal/wire"
)

const fakeURL = "https://10.0.0.1:9000"

// fakeCA answers as step-ca does, from an address in memory, so that it lives inside
// a synctest bubble. Control's tests run the same client against the real one.
type fakeCA struct {
	*testca.CA
	down    atomic.Bool // can't be connected to
	lenient atomic.Bool // takes expired client certificates

	mu     sync.Mutex
	life   time.Duration
	roots  []*x509.Certificate
	answer map[string]http.HandlerFunc // instead of the usual, by path
	edit   func(*x509.Certificate)
	used   map[string]bool
	proof  string            // that is traded for one-time tokens
	bound  map[string]string // one-time tokens to requests
	calls  []call

	client *memnet.Host
}

type call struct {
	path string
	at   time.Time
	key  string // of the CSR
}

func newFakeCA(t *testing.T) *fakeCA {
	t.Helper()
	ca := newCA(t, "prod.example")
	f := &fakeCA{
		CA: ca, life: 24 * time.Hour, roots: []*x509.Certificate{ca.Root},
		answer: map[string]http.HandlerFunc{}, used: map[string]bool{}, bound: map[string]string{},
	}
	network := memnet.New()
	f.client = network.Host(netip.MustParseAddr("10.0.0.2"))
	ln, err := network.Host(netip.MustParseAddr("10.0.0.1")).Listen(t.Context(), "tcp", ":9000")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Server("10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Root)
	strict := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.VerifyClientCertIfGiven,
		ClientCAs:    pool,
	}
	lenient := strict.Clone()
	lenient.ClientAuth = tls.RequestClientCert
	strict.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if f.lenient.Load() {
			return lenient, nil
		}
		return nil, nil
	}
	srv := &http.Server{
		Handler:           f,
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSConfig:         strict,
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.ServeTLS(ln, "", "") })
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return f
}

// set changes the CA's behaviour.
func (f *fakeCA) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeCA) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if f.down.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
	}
	return f.client.DialContext(ctx, network, address)
}

func (f *fakeCA) fingerprint() string {
	sum := sha256.Sum256(f.Root.Raw)
	return hex.EncodeToString(sum[:])
}

// token makes what only this fake accepts: it has no signature.
func (f *fakeCA) token(service string) string {
	return unsigned(map[string]any{
		"sub": service, "sans": []string{"spiffe://prod.example/" + service}, "sha": f.fingerprint(),
		"exp": time.Now().Add(5 * time.Minute).Unix(), "jti": rand.Text(),
	})
}

func unsigned(claims map[string]any) string {
	raw, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return "e30." + base64.RawURLEncoding.EncodeToString(raw) + ".c2lnbmF0dXJl"
}

func (f *fakeCA) config(token, dir string) identity.StepCAConfig {
	return identity.StepCAConfig{URL: fakeURL, RootFingerprint: f.fingerprint(), Token: token, Dir: dir, DialContext: f.dial}
}

// seen returns the calls to path, and forgets all calls.
func (f *fakeCA) seen(path string) []call {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []call
	for _, c := range f.calls {
		if c.path == path {
			found = append(found, c)
		}
	}
	f.calls = nil
	return found
}

func (f *fakeCA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body struct{ CSR, OTT, Proof, Service string }
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			refuse(w, http.StatusBadRequest, "bad JSON")
			return
		}
	}
	var csr *x509.CertificateRequest
	if block, _ := pem.Decode([]byte(body.CSR)); block != nil {
		var err error
		if csr, err = x509.ParseCertificateRequest(block.Bytes); err != nil || csr.CheckSignature() != nil || len(csr.URIs) != 1 {
			refuse(w, http.StatusBadRequest, "not a request for one URI, signed by its key")
			return
		}
	}
	c := call{path: r.URL.Path, at: time.Now()}
	if csr != nil {
		c.key = string(csr.RawSubjectPublicKeyInfo)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, c)
	if h := f.answer[r.URL.Path]; h != nil {
		h(w, r)
		return
	}
	switch {
	case r.URL.Path == "/root/"+f.fingerprint():
		respond(w, http.StatusOK, map[string]string{"ca": certPEM(f.Root)})
	case r.URL.Path == "/roots":
		var crts []string
		for _, root := range f.roots {
			crts = append(crts, certPEM(root))
		}
		respond(w, http.StatusCreated, map[string]any{"crts": crts})
	case r.URL.Path == wire.PathEnrol:
		if f.proof == "" || body.Proof != f.proof {
			refuse(w, http.StatusUnauthorized, "the token was used already")
			return
		}
		ott := f.token(body.Service)
		f.bound[ott] = body.CSR
		respond(w, http.StatusOK, wire.EnrolAnswer{OTT: ott})
	case r.URL.Path == "/sign" && csr != nil:
		f.sign(w, csr, body.OTT)
	case r.URL.Path == "/rekey" && csr != nil:
		if len(r.TLS.PeerCertificates) == 0 {
			refuse(w, http.StatusBadRequest, "missing client certificate")
			return
		}
		f.issue(w, r.TLS.PeerCertificates[0].URIs, csr)
	default:
		refuse(w, http.StatusNotFound, "not found")
	}
}

func (f *fakeCA) sign(w http.ResponseWriter, csr *x509.CertificateRequest, ott string) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(ott, ".")[1])
	var claims struct{ SANs []string }
	switch {
	case err != nil || json.Unmarshal(raw, &claims) != nil || f.used[ott]:
		refuse(w, http.StatusUnauthorized, "The request lacked necessary authorization to be completed.")
	case len(csr.URIs) != 1 || csr.URIs[0].String() != claims.SANs[0]:
		refuse(w, http.StatusForbidden, "certificate request does not contain the valid URIs")
	case f.bound[ott] != "" && f.bound[ott] != hash(csr):
		refuse(w, http.StatusForbidden, "certificate request fingerprint does not match")
	default:
		f.used[ott] = true
		f.issue(w, csr.URIs, csr)
	}
}

func hash(csr *x509.CertificateRequest) string {
	sum := sha256.Sum256(csr.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (f *fakeCA) issue(w http.ResponseWriter, uris []*url.URL, csr *x509.CertificateRequest) {
	template := f.Template("")
	template.URIs = uris
	template.NotBefore, template.NotAfter = time.Now(), time.Now().Add(f.life)
	if f.edit != nil {
		f.edit(template)
	}
	chain, err := f.Sign(template, csr.PublicKey)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	respond(w, http.StatusCreated, map[string]any{
		"crt": certPEM(chain[0]), "ca": certPEM(chain[1]), "certChain": []string{certPEM(chain[0]), certPEM(chain[1])},
	})
}

func respond(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}

func refuse(w http.ResponseWriter, status int, message string) {
	respond(w, status, map[string]any{"status": status, "message": message})
}

func certPEM(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
