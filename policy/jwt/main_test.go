package jwt_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/intramesh/mesh/policy"
	"github.com/intramesh/mesh/policy/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// key is an issuer's key with its name.
type key struct {
	id, alg string
	secret  crypto.Signer
}

func newKey(t testing.TB, id, alg string) *key {
	t.Helper()
	k := &key{id: id, alg: alg}
	var err error
	switch alg[:2] {
	case "Ed":
		_, k.secret, err = ed25519.GenerateKey(rand.Reader)
	case "ES":
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg]
		k.secret, err = ecdsa.GenerateKey(curve, rand.Reader)
	default:
		k.secret, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// jwks is the key set of these.
func jwks(t testing.TB, keys ...*key) string {
	t.Helper()
	var set jose.JSONWebKeySet
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.secret.Public(), KeyID: k.id, Use: "sig"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type object = map[string]any

// with returns the claims of a good token, changed; a nil value takes one out.
func with(change object) object {
	now := time.Now()
	c := object{"iss": "https://idp.example", "aud": "payments", "sub": "alice", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	for name, v := range change {
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	return c
}

func (k *key) sign(t testing.TB, claims object) string {
	t.Helper()
	return k.signAs(t, object{}, claims)
}

// signAs signs with other fields in the header; nil takes one out.
func (k *key) signAs(t testing.TB, header, claims object) string {
	t.Helper()
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	h := object{"alg": k.alg, "kid": k.id, "typ": "JWT"}
	maps.Copy(h, header)
	maps.DeleteFunc(h, func(_ string, v any) bool { return v == nil })
	head, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return k.raw(t, string(head), string(b))
}

// raw signs any bytes, with the standard library alone.
func (k *key) raw(t testing.TB, header, payload string) string {
	t.Helper()
	enc := base64.RawURLEncoding
	input := enc.EncodeToString([]byte(header)) + "." + enc.EncodeToString([]byte(payload))
	sig := k.signature(t, []byte(input))
	return input + "." + enc.EncodeToString(sig)
}

func (k *key) signature(t testing.TB, input []byte) []byte {
	t.Helper()
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[k.alg[2:]]
	digest := input
	if hash != 0 {
		h := hash.New()
		h.Write(input)
		digest = h.Sum(nil)
	}
	var sig []byte
	var err error
	switch s := k.secret.(type) {
	case *ecdsa.PrivateKey:
		r, v, e := ecdsa.Sign(rand.Reader, s, digest)
		if err = e; err == nil {
			n := (s.Curve.Params().BitSize + 7) / 8
			sig = append(r.FillBytes(make([]byte, n)), v.FillBytes(make([]byte, n))...)
		}
	case *rsa.PrivateKey:
		if strings.HasPrefix(k.alg, "PS") {
			sig, err = rsa.SignPSS(rand.Reader, s, hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			sig, err = rsa.SignPKCS1v15(rand.Reader, s, hash, digest)
		}
	case ed25519.PrivateKey:
		sig = ed25519.Sign(s, digest)
	}
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// issuers are those of documents with these specs.
func issuers(t testing.TB, specs ...policy.TokenIssuerSpec) []*policy.TokenIssuer {
	t.Helper()
	var docs []policy.Document
	for i := range specs {
		docs = append(docs, policy.Document{
			APIVersion: policy.APIVersion, Kind: policy.KindTokenIssuer, Metadata: policy.Metadata{Name: fmt.Sprint("idp", i)}, TokenIssuer: &specs[i],
		})
	}
	e, err := policy.Static(spiffeid.RequireTrustDomainFromString("prod.example"), docs...)
	if err != nil {
		t.Fatal(err)
	}
	return e.Issuers()
}

func spec(change func(*policy.TokenIssuerSpec)) policy.TokenIssuerSpec {
	s := policy.TokenIssuerSpec{Issuer: "https://idp.example", Audiences: []string{"payments", "ledger"}}
	change(&s)
	return s
}

func inline(t testing.TB, keys ...*key) policy.TokenIssuerSpec {
	t.Helper()
	return spec(func(s *policy.TokenIssuerSpec) { s.JWKS = jwks(t, keys...) })
}

func newVerifier(t testing.TB, cfg jwt.Config) *jwt.Verifier {
	t.Helper()
	v := jwt.New(cfg)
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// idp serves keys to an http.Client without a network, so that it works in a synctest bubble.
type idp struct {
	mu     sync.Mutex
	body   string
	status int
	hold   chan struct{} // when set, answers wait for it
	to     string        // when set, a redirect
	asked  int
}

func (p *idp) client() *http.Client { return &http.Client{Transport: p} }

func (p *idp) set(status int, body string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.body = status, body
}

func (p *idp) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *idp) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	p.asked++
	hold, to := p.hold, p.to
	resp := &http.Response{StatusCode: p.status, Header: http.Header{}, Body: io.NopCloser(bytes.NewBufferString(p.body)), Request: r}
	p.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if to != "" {
		resp.StatusCode = http.StatusFound
		resp.Header.Set("Location", to)
	}
	return resp, nil
}

// verify waits for keys that are on their way.
func verify(v *jwt.Verifier, token string, by []*policy.TokenIssuer) (*policy.Token, error) {
	for {
		tok, err := v.Verify(token, by)
		var p *policy.PendingError
		if !errors.As(err, &p) {
			return tok, err
		}
		<-p.Ready
	}
}

func wantError(t testing.TB, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want one with %q", err, part)
	}
}
