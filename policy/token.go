package policy

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/intramesh/mesh/internal/claims"
	"github.com/intramesh/mesh/internal/strictjson"
)

// A TokenVerifier verifies JSON Web Tokens. It is safe for concurrent use. Package policy/jwt has one.
type TokenVerifier interface {
	// Verify returns what the token says, once it holds as one of these issuers'. It answers from memory: when it needs
	// keys that are still on their way, the error is a [*PendingError]. Errors are told to callers and
	// must hold nothing of the token but what its issuer and key are called.
	Verify(token string, issuers []*TokenIssuer) (*Token, error)
}

// A Token is a token that holds.
type Token struct {
	// Claims are the token's, as encoding/json decodes them into a map, with numbers as json.Number. They are shared:
	// nobody modifies them.
	Claims map[string]any
	// Until is from when on it does not hold any more.
	Until time.Time
}

// A PendingError says that a token can't be verified yet.
type PendingError struct {
	// Ready is closed when it is worth another try.
	Ready <-chan struct{}
	// Issuer is the one whose keys are on their way.
	Issuer string
}

// Error names the issuer.
func (e *PendingError) Error() string { return "the keys of " + e.Issuer + " are being fetched" }

// A TokenIssuer is a [TokenIssuerSpec] that was checked, with its defaults.
type TokenIssuer struct {
	Issuer     string
	Audiences  []string
	JWKSURL    string // or
	JWKS       string
	Header     string // lower case
	ClockSkew  time.Duration
	Algorithms []string
	// Digest is over all of them: what has the same one is the same.
	Digest [sha256.Size]byte
}

// headerIssuers are the issuers whose tokens are in one header.
type headerIssuers struct {
	headerName
	bearer  bool // the scheme must be there
	issuers []*TokenIssuer
}

const authorization = "authorization"

func (e *Engine) addIssuer(t *TokenIssuer) {
	for i := range e.issuers {
		if h := &e.issuers[i]; h.lower == t.Header {
			h.issuers = append(h.issuers, t)
			return
		}
	}
	e.issuers = append(e.issuers, headerIssuers{newHeaderName(t.Header), t.Header == authorization, []*TokenIssuer{t}})
}

// Issuers returns those whose tokens the rules know. They are shared: nobody modifies them.
func (e *Engine) Issuers() []*TokenIssuer {
	if e == nil {
		return nil
	}
	var all []*TokenIssuer
	for _, h := range e.issuers {
		all = append(all, h.issuers...)
	}
	return all
}

const (
	defaultSkew = time.Minute
	maxSkew     = 5 * time.Minute
)

func (c *compiler) issuer(doc *Document) *TokenIssuer {
	spec := &path{field: "spec"}
	in := doc.TokenIssuer
	if in == nil {
		c.fail(spec, "is missing")
		return nil
	}
	out := &TokenIssuer{
		Issuer: in.Issuer, Audiences: slices.Clone(in.Audiences), JWKSURL: in.JWKSURL, JWKS: in.JWKS,
		Header: strings.ToLower(in.Header), ClockSkew: defaultSkew, Algorithms: slices.Clone(in.Algorithms),
	}
	c.text(in.Issuer, spec.at("issuer"))
	if in.Audiences == nil {
		c.fail(spec.at("audiences"), "is missing: without it, tokens that the issuer made for others would count here")
	}
	c.checkList(in.Audiences, spec.at("audiences"))
	for i, s := range in.Audiences {
		c.text(s, &path{up: spec.at("audiences"), index: i})
	}
	c.keys(in, spec)
	c.tokenHeader(out, spec.at("header"))
	if in.ClockSkew != "" {
		d, err := time.ParseDuration(in.ClockSkew)
		if err != nil || d < 0 || d > maxSkew {
			c.fail(spec.at("clockSkew"), "%q: want a duration from 0s to 5m", clip(in.ClockSkew, maxText/2))
		}
		out.ClockSkew = d
	}
	c.checkList(in.Algorithms, spec.at("algorithms"))
	for i, a := range in.Algorithms {
		if !slices.Contains(algorithms(), a) {
			c.fail(&path{up: spec.at("algorithms"), index: i}, "%q: want one of %s", clip(a, maxText/2), strings.Join(algorithms(), ", "))
		}
	}
	if len(in.Algorithms) == 0 {
		out.Algorithms = []string{"ES256", "RS256", "EdDSA"}
	}
	data, _ := json.Marshal(out) // strings, numbers and an empty digest: it can't fail
	out.Digest = sha256.Sum256(data)
	return out
}

// algorithms are those with a public key: with a shared secret, who verifies could sign.
func algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// text wants some text.
func (c *compiler) text(s string, at *path) {
	if err := checkText(s); err != nil {
		c.fail(at, "%s", err)
	} else if s == "" {
		c.fail(at, "is missing")
	}
}

func (c *compiler) tokenHeader(out *TokenIssuer, at *path) {
	name := newHeaderName(out.Header)
	switch {
	case out.Header == "":
		out.Header = authorization
	case !isToken(out.Header) || len(out.Header) > MaxValueLen:
		c.fail(at, "%q is not a header's name", clip(out.Header, maxText/2))
	case claims.Has(name.canonical) || strings.HasPrefix(name.lower, "grpc-") || strings.HasSuffix(name.lower, "-bin") ||
		slices.Contains([]string{"host", "transfer-encoding", "trailer", "cookie", "content-length"}, name.lower):
		c.fail(at, "the header %q can't carry a token here", out.Header)
	}
}

func (c *compiler) keys(in *TokenIssuerSpec, spec *path) {
	if (in.JWKSURL == "") == (in.JWKS == "") {
		c.fail(spec, "want one of jwksURL and jwks")
		return
	}
	if in.JWKS != "" {
		if err := checkKeys(in.JWKS); err != nil {
			c.fail(spec.at("jwks"), "%s", err)
		}
		return
	}
	u, err := url.Parse(in.JWKSURL)
	switch {
	case checkText(in.JWKSURL) != nil || err != nil:
		c.fail(spec.at("jwksURL"), "is not a URL")
	case u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "":
		c.fail(spec.at("jwksURL"), "want an https URL, without user and fragment: who could change the keys could make any token")
	}
}

// checkKeys looks at a key set as far as it goes without cryptography. Keys of a kind that is not known are passed
// over, as RFC 7517, section 5, has it.
func checkKeys(s string) error {
	if len(s) > MaxJWKS {
		return fmt.Errorf("is %d bytes long; at most %d are accepted", len(s), MaxJWKS)
	}
	set, err := strictjson.Parse([]byte(s))
	keys := set.Field("keys")
	if err != nil || keys == nil || keys.Kind != strictjson.List {
		return errors.New(`is not a JSON Web Key Set: {"keys": [...]}`)
	}
	usable := false
	for i, k := range keys.Items {
		if k.Kind != strictjson.Object {
			return fmt.Errorf("key %d is none", i)
		}
		if k.Field("d") != nil || k.Field("k") != nil {
			return fmt.Errorf("key %d is a secret one; take it out of circulation, and give the public one only", i)
		}
		if kty := k.Field("kty"); kty != nil {
			usable = usable || kty.Text == "RSA" || kty.Text == "EC" || kty.Text == "OKP"
		}
	}
	if !usable {
		return errors.New("has no RSA, EC or OKP key")
	}
	return nil
}
