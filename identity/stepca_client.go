package identity

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/intramesh/mesh/internal/onehttp"
	"github.com/intramesh/mesh/internal/strictjson"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	maxCAResponse = 256 << 10
	maxRoots      = 32
)

// A CAError is a refusal that the CA answered with.
type CAError struct {
	// Op is the API's call: "enrolment", "sign", "rekey", "roots" or "root".
	Op string
	// Status is the HTTP status code.
	Status int
	// Message is what the CA said.
	Message string
}

// Error tells what the CA said.
func (e *CAError) Error() string {
	return fmt.Sprintf("the CA refused %s (%d): %s", e.Op, e.Status, e.Message)
}

// stepClient speaks the part of step-ca's HTTP API that an application needs. Each call
// makes one connection of its own: they are rare, and nothing idles between them.
type stepClient struct {
	servers *atomic.Pointer[[]*url.URL]
	turn    *atomic.Uint32 // the server to ask, modulo their number
	timeout time.Duration
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

func newStepClient(servers []*url.URL, cfg StepCAConfig) stepClient {
	c := stepClient{new(atomic.Pointer[[]*url.URL]), new(atomic.Uint32), cfg.Timeout, cfg.DialContext}
	c.servers.Store(&servers)
	c.turn.Store(rand.Uint32() >> 1) //nolint:gosec // spreads load
	return c
}

// root fetches the root with the given fingerprint. It is the one request whose server
// nobody vouches for; the fingerprint makes the answer trustworthy.
func (c *stepClient) root(ctx context.Context, fingerprint string) (*x509.Certificate, error) {
	var answer struct {
		CA pemCert `json:"ca"`
	}
	unverified := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, //nolint:gosec // no trust exists yet, and the answer is checked against the fingerprint
	}
	if err := c.do(ctx, unverified, http.MethodGet, "root", "/root/"+fingerprint, nil, &answer); err != nil {
		return nil, err
	}
	if answer.CA.Certificate == nil {
		return nil, errors.New("the CA answered without a root certificate")
	}
	if got := fingerprintOf(answer.CA.Certificate); got != fingerprint {
		return nil, fmt.Errorf("the CA showed a root with fingerprint %s, not %s: something else may be answering at its address", got, fingerprint)
	}
	return answer.CA.Certificate, nil
}

// roots fetches all roots over TLS that the known ones verify.
func (c *stepClient) roots(ctx context.Context, known *x509bundle.Bundle) (*x509bundle.Bundle, error) {
	var answer struct {
		Certs []pemCert `json:"crts"`
	}
	if err := c.do(ctx, verified(known), http.MethodGet, "roots", "/roots", nil, &answer); err != nil {
		return nil, err
	}
	if n := len(answer.Certs); n == 0 || n > maxRoots {
		return nil, fmt.Errorf("the CA answered with %d roots, want 1 to %d", n, maxRoots)
	}
	fresh := x509bundle.New(known.TrustDomain())
	for _, cert := range answer.Certs {
		if cert.Certificate == nil || !cert.IsCA {
			return nil, errors.New("the CA answered with a root that is not a CA certificate")
		}
		fresh.AddX509Authority(cert.Certificate)
	}
	return fresh, nil
}

// sign trades a one-time token for a certificate.
func (c *stepClient) sign(ctx context.Context, req *request, token string, roots *x509bundle.Bundle) (*x509svid.SVID, error) {
	return c.issue(ctx, "sign", verified(roots), req, roots, map[string]string{"csr": req.pem, "ott": token})
}

// rekey trades a certificate for one with a new key.
func (c *stepClient) rekey(ctx context.Context, old *x509svid.SVID, roots *x509bundle.Bundle) (*x509svid.SVID, error) {
	conf := verified(roots)
	cert := tls.Certificate{PrivateKey: old.PrivateKey, Leaf: old.Certificates[0]}
	for _, c := range old.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	// Not conf.Certificates: it withholds a certificate that the server's list of CAs doesn't name.
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	req, err := newRequest(old.ID)
	if err != nil {
		return nil, err
	}
	return c.issue(ctx, "rekey", conf, req, roots, map[string]string{"csr": req.pem})
}

// issue sends a request, and returns the answer only if it is for its key and its ID and verifies.
func (c *stepClient) issue(ctx context.Context, op string, conf *tls.Config, req *request, roots *x509bundle.Bundle, body any) (*x509svid.SVID, error) {
	var answer struct {
		Cert  pemCert   `json:"crt"`
		CA    pemCert   `json:"ca"`
		Chain []pemCert `json:"certChain"`
	}
	if err := c.do(ctx, conf, http.MethodPost, op, "/"+op, body, &answer); err != nil {
		return nil, err
	}
	if len(answer.Chain) == 0 { // versions before certChain
		answer.Chain = []pemCert{answer.Cert, answer.CA}
	}
	svid := &x509svid.SVID{ID: req.id, PrivateKey: req.key}
	for _, cert := range answer.Chain {
		if cert.Certificate != nil {
			svid.Certificates = append(svid.Certificates, cert.Certificate)
		}
	}
	if err := checkIssued(svid, roots); err != nil {
		return nil, fmt.Errorf("the CA answered %s with a certificate that can't be used: %w", op, err)
	}
	return svid, nil
}

// checkIssued makes sure that an SVID is for its ID and its key, and verifies.
func checkIssued(svid *x509svid.SVID, roots *x509bundle.Bundle) error {
	id, err := Verify(svid.Certificates, roots)
	if err != nil {
		return err
	}
	if id != svid.ID {
		return fmt.Errorf("it is for %s, not %s", id, svid.ID)
	}
	public, ok := svid.PrivateKey.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(svid.Certificates[0].PublicKey) {
		return errors.New("it is for another key")
	}
	return nil
}

func verified(roots *x509bundle.Bundle) *tls.Config {
	pool := x509.NewCertPool()
	for _, root := range roots.X509Authorities() {
		pool.AddCert(root)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
}

// do makes one request. The answer is JSON of at most maxCAResponse bytes; redirects are refused.
func (c *stepClient) do(ctx context.Context, conf *tls.Config, method, op, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var payload []byte
	if body != nil {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			return err
		}
	}
	conn, u, err := c.connect(ctx, conf)
	if err != nil {
		return err
	}
	defer conn.Close()
	status, raw, _, err := conn.Do(ctx, method, under(u, path), payload, maxCAResponse)
	if err != nil || status >= http.StatusInternalServerError {
		c.turn.Add(1) // whoever tries again tries the next
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s at the CA %s: %w", op, u, err)
	case status != http.StatusOK && status != http.StatusCreated:
		return refusal(op, status, raw)
	}
	if err := strictjson.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("%s: the CA's answer is not what step-ca sends: %w", op, err)
	}
	return nil
}

// connect makes the TLS connection for one request, to the first server that takes it.
func (c *stepClient) connect(ctx context.Context, conf *tls.Config) (*onehttp.Conn, *url.URL, error) {
	servers := *c.servers.Load()
	var failures error
	for range servers {
		u := servers[int(c.turn.Load())%len(servers)]
		conn, err := c.connectTo(ctx, u, conf, c.timeout/time.Duration(len(servers)))
		if err == nil {
			return conn, u, nil
		}
		failures = errors.Join(failures, fmt.Errorf("connect to the CA at %s: %w", u, err))
		c.turn.Add(1)
	}
	return nil, nil, failures
}

func (c *stepClient) connectTo(ctx context.Context, u *url.URL, conf *tls.Config, timeout time.Duration) (*onehttp.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := c.dial(ctx, "tcp", hostPort(u))
	if err != nil {
		return nil, err
	}
	conf.ServerName = u.Hostname()
	t := tls.Client(conn, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return onehttp.NewConn(t), nil
}

// under is path below u. [url.URL.JoinPath] would be 5 KB of every program.
func under(u *url.URL, path string) *url.URL {
	to := *u
	to.Path, to.RawPath = strings.TrimSuffix(u.Path, "/")+path, ""
	return &to
}

func hostPort(u *url.URL) string {
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

// refusal reads step-ca's error. Before there is trust anybody may have written it, so it is cut
// to a size and to what can be printed.
func refusal(op string, status int, raw []byte) error {
	var answer struct {
		Message string `json:"message"`
	}
	if strictjson.Unmarshal(raw, &answer) != nil || answer.Message == "" {
		answer.Message = "no reason given"
	}
	const enough = 512
	message := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, answer.Message[:min(len(answer.Message), enough)])
	return &CAError{Op: op, Status: status, Message: message}
}

// pemCert is a certificate in JSON as step-ca writes it: a string of one PEM block.
type pemCert struct{ *x509.Certificate }

// UnmarshalText implements [encoding.TextUnmarshaler]. Nothing is no certificate.
func (c *pemCert) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return errors.New("not a PEM certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	c.Certificate = cert
	return err
}

func fingerprintOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
