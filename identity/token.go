package identity

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/intramesh/mesh/internal/strictjson"
)

const maxToken = 16 << 10

// tokenClaims is what a client needs to know of a one-time token of step-ca, which is a JWT
// (RFC 7519). The signature is the CA's business: nothing here is trusted further than to
// ask for it.
type tokenClaims struct {
	id      spiffeid.ID
	root    string    // fingerprint of the root that the token was made for, "" if it doesn't say
	expires time.Time // zero if it doesn't say
}

// parseToken reads a token's claims. Its errors never contain the token.
func parseToken(token string) (tokenClaims, error) {
	if len(token) > maxToken {
		return tokenClaims{}, fmt.Errorf("token of %d bytes is longer than %d", len(token), maxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return tokenClaims{}, errors.New("token is not a JWT of three parts (was it cut off when it was copied?)")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return tokenClaims{}, errors.New("token is damaged: its claims are not base64url")
	}
	var c struct {
		Subject string   `json:"sub"`
		SANs    []string `json:"sans"`
		SHA     string   `json:"sha"`
		Expires float64  `json:"exp"`
	}
	if err := strictjson.Unmarshal(payload, &c); err != nil {
		return tokenClaims{}, errors.New("token is damaged: its claims are not the expected JSON")
	}
	if len(c.SANs) == 0 { // step-ca then takes the subject
		c.SANs = []string{c.Subject}
	}
	if len(c.SANs) != 1 {
		return tokenClaims{}, fmt.Errorf("token is for %d names, want exactly one SPIFFE ID", len(c.SANs))
	}
	id, err := spiffeid.FromString(c.SANs[0])
	if err != nil {
		return tokenClaims{}, fmt.Errorf("token is for %q, which is not a SPIFFE ID: %w", c.SANs[0], err)
	}
	if id.Path() == "" {
		return tokenClaims{}, fmt.Errorf("token is for %s, which names no service", id)
	}
	claims := tokenClaims{id: id, root: strings.ToLower(c.SHA)}
	if c.Expires > 0 && c.Expires < 1<<40 {
		claims.expires = time.Unix(int64(c.Expires), 0)
	}
	return claims, nil
}
