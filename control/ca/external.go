package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/smallstep/certificates/api"
	"go.step.sm/crypto/jose"
	"go.step.sm/crypto/pemutil"
)

// External is the part "ca" of mesh.yaml: a step-ca of your own that signs, instead of a key in the directory. The
// control plane stands before it, as its registration authority: members enrol and renew at the control plane, under
// the same checks as ever, and need not reach the step-ca.
type External struct {
	// URL is the step-ca's, "https://ca.example:9000".
	URL string `yaml:"url"`
	// RootFile holds the PEM of its root certificate, or of several, of which new members are told one.
	RootFile string `yaml:"root_file"`
	// Provisioner is the name of a provisioner of type JWK, which should be the mesh's alone.
	Provisioner string `yaml:"provisioner"`
	// KeyFile holds the provisioner's private key, mode 0600: a JWK, encrypted or not, or PEM. Whoever has it can be any
	// service of the mesh.
	KeyFile string `yaml:"key_file"`
	// PasswordFile holds the password of an encrypted KeyFile, mode 0600.
	PasswordFile string `yaml:"password_file"`
}

// Check finds what is missing.
func (e External) Check() error {
	for name, v := range map[string]string{"root_file": e.RootFile, "provisioner": e.Provisioner, "key_file": e.KeyFile} {
		if v == "" {
			return fmt.Errorf("%s is missing: an external CA needs url, root_file, provisioner and key_file", name)
		}
	}
	u, err := url.Parse(e.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("url: %q is not of the form https://host:port", e.URL)
	}
	return nil
}

// An ExternalError is a refusal of the external CA.
type ExternalError struct {
	// Op is the call: "sign", "roots" or "revoke".
	Op string
	// Status is the HTTP status code, Message what the CA said.
	Status  int
	Message string
}

// Error tells what the CA said.
func (e *ExternalError) Error() string {
	return fmt.Sprintf("the external CA refused %s (%d): %.512q", e.Op, e.Status, e.Message)
}

const (
	externalTimeout   = 10 * time.Second // below what the server gives its own answers
	maxExternalAnswer = 256 << 10
	maxExternalRoots  = 32
)

// stepCA speaks step-ca's HTTP API with the provisioner's key.
type stepCA struct {
	url         string
	provisioner string
	key         *jose.JSONWebKey
	lifetime    time.Duration
}

func newStepCA(e External, lifetime time.Duration) (*stepCA, error) {
	if err := e.Check(); err != nil {
		return nil, err
	}
	raw, err := readPrivate(e.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("key_file: %w", err)
	}
	var password []byte
	if e.PasswordFile != "" {
		if password, err = readPrivate(e.PasswordFile); err != nil {
			return nil, fmt.Errorf("password_file: %w", err)
		}
	}
	key, err := jose.ParseKey(raw, jose.WithFilename(e.KeyFile), jose.WithPassword(bytes.TrimSpace(password)))
	if err != nil {
		return nil, fmt.Errorf("key_file: %w", err)
	}
	if key.IsPublic() || !key.Valid() {
		return nil, fmt.Errorf("key_file: %s is not a private key", e.KeyFile)
	}
	if key.KeyID == "" {
		if key.KeyID, err = jose.Thumbprint(key); err != nil {
			return nil, fmt.Errorf("key_file: %w", err)
		}
	}
	return &stepCA{strings.TrimSuffix(e.URL, "/"), e.Provisioner, key, lifetime}, nil
}

func readPrivate(path string) ([]byte, error) {
	if err := checkPrivate(path); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// ott makes a token of the provisioner for one call.
func (s *stepCA) ott(op, subject string, sans []string, bound *confirmation) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(s.key.Algorithm), Key: s.key.Key},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", s.key.KeyID))
	if err != nil {
		return "", err
	}
	now := time.Now()
	return jose.Signed(signer).Claims(claims{
		Claims: jose.Claims{
			Issuer: s.provisioner, Subject: subject, Audience: jose.Audience{s.url + "/1.0/" + op}, ID: rand.Text(),
			IssuedAt: jose.NewNumericDate(now), NotBefore: jose.NewNumericDate(now.Add(-maxBackdate)), Expiry: jose.NewNumericDate(now.Add(oneTimeLifetime)),
		},
		SANs: sans, Confirmation: bound,
	}).CompactSerialize()
}

// sign has the CA sign a request, for exactly one name, which is the common name too: a policy of step-ca looks at that as well.
func (s *stepCA) sign(ctx context.Context, roots []*x509.Certificate, csr *x509.CertificateRequest, san string) ([]*x509.Certificate, error) {
	sum := sha256.Sum256(csr.Raw)
	ott, err := s.ott("sign", san, []string{san}, &confirmation{base64.RawURLEncoding.EncodeToString(sum[:])})
	if err != nil {
		return nil, err
	}
	var answer api.SignResponse
	err = s.do(ctx, roots, nil, http.MethodPost, "sign", map[string]string{
		"csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr.Raw})), "ott": ott, "notAfter": s.lifetime.String(),
	}, &answer)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for _, c := range answer.CertChainPEM {
		if c.Certificate != nil {
			chain = append(chain, c.Certificate)
		}
	}
	if len(chain) == 0 {
		return nil, errors.New("the external CA answered sign without a certificate")
	}
	if pub, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(csr.PublicKey) {
		return nil, errors.New("the external CA answered with a certificate for another key")
	}
	return chain, nil
}

// roots fetches the roots that the CA hands out, over TLS that the known ones verify.
func (s *stepCA) roots(ctx context.Context, known []*x509.Certificate) ([]*x509.Certificate, error) {
	var answer api.RootsResponse
	if err := s.do(ctx, known, nil, http.MethodGet, "roots", nil, &answer); err != nil {
		return nil, err
	}
	var roots []*x509.Certificate
	for _, c := range answer.Certificates {
		if c.Certificate == nil || !c.IsCA {
			return nil, errors.New("the external CA answered with a root that is not a CA certificate")
		}
		roots = append(roots, c.Certificate)
	}
	if n := len(roots); n == 0 || n > maxExternalRoots {
		return nil, fmt.Errorf("the external CA answered with %d roots, want 1 to %d", n, maxExternalRoots)
	}
	return roots, nil
}

// revoke has the CA refuse to renew a certificate, and list it where it publishes what is revoked.
func (s *stepCA) revoke(ctx context.Context, roots []*x509.Certificate, serial *big.Int) error {
	ott, err := s.ott("revoke", serial.String(), nil, nil)
	if err != nil {
		return err
	}
	err = s.do(ctx, roots, nil, http.MethodPost, "revoke", map[string]any{"serial": serial.String(), "ott": ott, "passive": true}, &struct{}{})
	if refused, ok := errors.AsType[*ExternalError](err); ok && refused.Status == http.StatusBadRequest && strings.Contains(refused.Message, "already revoked") {
		return nil
	}
	return err
}

// renews reports whether the CA renews a certificate of the provisioner for whoever reaches it.
func (s *stepCA) renews(ctx context.Context, roots []*x509.Certificate, cert *tls.Certificate) (bool, error) {
	err := s.do(ctx, roots, cert, http.MethodPost, "renew", nil, &struct{}{})
	if _, refused := errors.AsType[*ExternalError](err); refused {
		return false, nil
	}
	return err == nil, err
}

// do makes one call, on a connection of its own, with a client certificate unless that is nil.
func (s *stepCA) do(ctx context.Context, roots []*x509.Certificate, as *tls.Certificate, method, op string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, externalTimeout)
	defer cancel()
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
	if as != nil {
		conf.Certificates = []tls.Certificate{*as}
	}
	client := http.Client{
		Transport:     &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+"/1.0/"+op, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("the external CA: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxExternalAnswer))
	if err != nil {
		return fmt.Errorf("the external CA: %w", err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		var said struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(raw, &said) != nil || said.Message == "" {
			said.Message = http.StatusText(resp.StatusCode)
		}
		return &ExternalError{op, resp.StatusCode, said.Message}
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("the external CA's answer to %s is not what step-ca sends: %w", op, err)
	}
	return nil
}

// readRoots reads certificates of authorities, at least one.
func readRoots(path string) ([]*x509.Certificate, error) {
	roots, err := pemutil.ReadCertificateBundle(path)
	if err != nil {
		return nil, err
	}
	for _, r := range roots {
		if !r.IsCA {
			return nil, fmt.Errorf("%s holds a certificate that is not an authority's: %s", path, r.Subject)
		}
	}
	return roots, nil
}
