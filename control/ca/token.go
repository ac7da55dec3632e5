package ca

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/intramesh/mesh/control/internal/names"
	"github.com/smallstep/nosql"
	"go.step.sm/crypto/jose"
)

// MaxTokenLifetime bounds how long an unused token can lie around.
const MaxTokenLifetime = 7 * 24 * time.Hour

// claims are step-ca's one-time token: see "Tokens" in the step-ca documentation.
type claims struct {
	jose.Claims
	SANs []string `json:"sans"`
	SHA  string   `json:"sha"`
	// Confirmation binds the token to one certificate request.
	Confirmation *confirmation `json:"cnf,omitempty"`
}

type confirmation struct {
	CSR string `json:"x5rt#S256"`
}

// oneTimeLifetime is that of a token which is used at once.
const oneTimeLifetime = 5 * time.Minute

// OneTimeToken returns a token that enrols service, once, with the one certificate request that has this SHA-256
// (base64url), at the servers of this CA that answer on hostports.
func (c *CA) OneTimeToken(service, csr string, hostports ...string) (string, error) {
	return c.token(service, hostports, oneTimeLifetime, &confirmation{csr})
}

// Token returns a token that enrols one process of service, once, within ttl, at the servers of this CA that
// answer on hostports.
func (c *CA) Token(service string, ttl time.Duration, hostports ...string) (string, error) {
	return c.token(service, hostports, ttl, nil)
}

func (c *CA) token(service string, hostports []string, ttl time.Duration, bound *confirmation) (string, error) {
	id, err := names.Ordinary(c.td, service)
	if err != nil {
		return "", fmt.Errorf("ca: %w", err)
	}
	if ttl <= 0 || ttl > MaxTokenLifetime {
		return "", fmt.Errorf("ca: token lifetime %v is not between 0 and %v", ttl, MaxTokenLifetime)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: c.keys.provisioner},
		(&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", c.kid()),
	)
	if err != nil {
		return "", fmt.Errorf("ca: %w", err)
	}
	now := time.Now()
	token, err := jose.Signed(signer).Claims(claims{
		Claims: jose.Claims{
			Issuer:    provisionerName,
			Subject:   service, // becomes the certificate's common name
			Audience:  audience(hostports),
			ID:        rand.Text(),
			IssuedAt:  jose.NewNumericDate(now),
			NotBefore: jose.NewNumericDate(now.Add(-maxBackdate)),
			Expiry:    jose.NewNumericDate(now.Add(ttl)),
		},
		SANs: []string{id.String()},
		SHA:  c.Fingerprint(),

		Confirmation: bound,
	}).CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("ca: %w", err)
	}
	return token, nil
}

func audience(hostports []string) (aud jose.Audience) {
	for _, h := range hostports {
		aud = append(aud, URL(h)+"/1.0/sign")
	}
	return aud
}

// checkToken verifies a token before smallstep sees it. smallstep remembers a token as used
// before it verifies the signature: anybody could burn tokens and fill its database. What
// it returns names exactly one identity, as the token spells it; the enforcer has a look at it.
func (c *CA) checkToken(token string) (*claims, error) {
	t, err := jose.ParseSigned(token)
	if err != nil {
		return nil, errors.New("the token is not a signed JWT")
	}
	var cl claims
	if err := t.Claims(c.keys.provisioner.Public(), &cl); err != nil {
		return nil, errors.New("the token is not signed by this CA")
	}
	switch {
	case cl.Issuer != provisionerName || cl.ID == "" || cl.Expiry == nil:
		return nil, errors.New("the token lacks what tokens of this CA have")
	case time.Now().After(cl.Expiry.Time()):
		return nil, fmt.Errorf("the token expired at %s", cl.Expiry.Time().UTC().Format(time.RFC3339))
	case !c.isAudience(cl.Audience):
		return nil, fmt.Errorf("the token is for %s, not for this CA", strings.Join(cl.Audience, ", "))
	case len(cl.SANs) != 1:
		return nil, fmt.Errorf("the token names %d identities, want one", len(cl.SANs))
	}
	// For the message alone; smallstep decides which of two at the same time is first.
	if d, ok := c.db.(nosql.DB); ok {
		if _, err := d.Get([]byte("used_ott"), []byte(cl.ID)); err == nil {
			return nil, errors.New("the token was used already")
		}
	}
	return &cl, nil
}

// isAudience compares hosts: the port that clients see may be a forwarded one.
func (c *CA) isAudience(aud jose.Audience) bool {
	for _, a := range aud {
		if u, err := url.Parse(a); err == nil && u.Scheme == "https" && u.Hostname() == c.cfg.Host {
			return true
		}
	}
	return false
}

// isIP reports whether host is an IP address rather than a DNS name.
func isIP(host string) bool { return net.ParseIP(host) != nil }
