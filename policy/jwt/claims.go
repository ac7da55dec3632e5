package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	strict "github.com/go-jose/go-jose/v4/json"
	"github.com/intramesh/mesh/policy"
)

// header is the part of a token's protected header that we act on.
type header struct {
	Alg, Kid, Typ string
}

// parseHeader reads what a token says about itself. Extensions that would have to be understood are refused (RFC 7515,
// section 4.1.11), and tokens that say they are something else than an access or identity token (RFC 8725,
// section 3.11).
func parseHeader(token string) (h header, err error) {
	first, _, _ := strings.Cut(token, ".")
	data, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		return h, errMalformed
	}
	all := make(map[string]any)
	if strict.Unmarshal(data, &all) != nil {
		return h, errMalformed
	}
	text := func(key string) string {
		s, ok := all[key].(string)
		if !ok && all[key] != nil {
			err = errMalformed
		}
		return s
	}
	h = header{text("alg"), text("kid"), text("typ")}
	_, crit := all["crit"]
	_, b64 := all["b64"]
	switch {
	case err != nil:
		return h, err
	case crit || b64:
		return h, errors.New("the token has an extension that is not known")
	}
	switch strings.TrimPrefix(strings.ToLower(h.Typ), "application/") {
	case "", "jwt", "at+jwt":
		return h, nil
	}
	return h, errors.New("the token is of another type")
}

// claims are a token's, not verified yet.
type claims struct {
	all           map[string]any
	iss           string
	aud           []string
	exp, nbf, iat time.Time
}

func parseClaims(payload []byte) (*claims, error) {
	// Of two members of a name, others might take the other one: strict refuses that.
	if err := strict.Unmarshal(payload, new(map[string]any)); err != nil {
		return nil, errMalformed
	}
	c := new(claims)
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	if err := d.Decode(&c.all); err != nil || c.all == nil {
		return nil, errMalformed
	}
	ok := true
	c.iss, _ = c.all["iss"].(string)
	switch aud := c.all["aud"].(type) {
	case string:
		c.aud = []string{aud}
	case []any:
		for _, a := range aud {
			s, isText := a.(string)
			ok = ok && isText
			c.aud = append(c.aud, s)
		}
	}
	for key, at := range map[string]*time.Time{"exp": &c.exp, "nbf": &c.nbf, "iat": &c.iat} {
		v, there := c.all[key]
		if !there {
			continue
		}
		n, isNumber := v.(json.Number)
		t, valid := numericDate(n)
		*at = t
		ok = ok && isNumber && valid
	}
	if !ok {
		return nil, errMalformed
	}
	return c, nil
}

// numericDate reads seconds since 1970, which may have a fraction (RFC 7519, section 2).
func numericDate(n json.Number) (time.Time, bool) {
	f, err := n.Float64()
	if err != nil || math.Abs(f) > 1<<40 { // within the years that package time can add to
		return time.Time{}, false
	}
	whole, fraction := math.Modf(f)
	return time.Unix(int64(whole), int64(fraction*1e9)), true
}

func (c *claims) issuerOf(issuers []*policy.TokenIssuer) *policy.TokenIssuer {
	if i := slices.IndexFunc(issuers, func(t *policy.TokenIssuer) bool { return t.Issuer == c.iss }); i >= 0 {
		return issuers[i]
	}
	return nil
}

// check returns until when the claims hold.
func (c *claims) check(issuer *policy.TokenIssuer, now time.Time) (time.Time, error) {
	until := c.exp.Add(issuer.ClockSkew)
	soon := now.Add(issuer.ClockSkew)
	switch {
	case !slices.ContainsFunc(c.aud, func(a string) bool { return slices.Contains(issuer.Audiences, a) }):
		return until, errors.New("the token is for another audience")
	case c.exp.IsZero():
		return until, errors.New("the token has no expiry")
	case !now.Before(until):
		return until, errors.New("the token has expired")
	case soon.Before(c.nbf):
		return until, errors.New("the token is not valid yet")
	case soon.Before(c.iat):
		return until, errors.New("the token was issued in the future")
	}
	return until, nil
}
