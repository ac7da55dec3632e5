package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// tokenState is what a query knows about the token of its request. It is apart from it, for those that never ask.
type tokenState struct {
	claims map[string]any // nil: unavailable, for err
	err    error
	until  time.Time
}

// limit tells how long a decision is good for.
func (t *tokenState) limit(d *Decision) {
	if d.Verdict == Allow {
		d.NotAfter = t.until
		return
	}
	if p, ok := t.err.(*PendingError); ok { //nolint:errorlint // TokenVerifier promises it unwrapped, and this is on the path of every denial
		d.Retry = p.Ready
	}
}

var (
	errNoIssuer   = errors.New("the mesh knows no issuer of tokens")
	errNoVerifier = errors.New("this process verifies no tokens")
	errNoToken    = errors.New("the request has no token")
	errManyTokens = errors.New("the request has more than one token")
	errNilToken   = errors.New("the verifier returned nothing")
	errUnclear    = errors.New("the claim is not text, a number, a boolean or a list of these")
)

// claims returns the claims of the request's token, nil when they are unavailable.
func (q *query) claims() map[string]any {
	if q.token == nil {
		q.token = &tokenState{claims: q.Claims}
		if q.Claims == nil {
			q.token.err = q.verify()
		}
	}
	return q.token.claims
}

func (q *query) verify() error {
	if len(q.engine.issuers) == 0 {
		return errNoIssuer
	}
	var token string
	var by *headerIssuers
	for i := range q.engine.issuers {
		h := &q.engine.issuers[i]
		lines, more := h.lines(q.Header)
		for _, lines := range [...][]string{lines, more} {
			for _, s := range lines {
				s, ok := h.find(s)
				switch {
				case !ok:
				case by != nil:
					return errManyTokens
				default:
					token, by = s, h
				}
			}
		}
	}
	switch {
	case by == nil:
		return errNoToken
	case q.Tokens == nil:
		return errNoVerifier
	}
	v, err := q.Tokens.Verify(token, by.issuers)
	switch {
	case err != nil:
		return err
	case v == nil || v.Claims == nil:
		return errNilToken
	}
	q.token.claims, q.token.until = v.Claims, v.Until
	return nil
}

// find returns the token in a line of the header, if there is one. The scheme's case does not matter (RFC 9110, section
// 11.1).
func (h *headerIssuers) find(line string) (string, bool) {
	const scheme = "bearer "
	line = strings.Trim(line, " \t")
	if len(line) > len(scheme) && strings.EqualFold(line[:len(scheme)], scheme) {
		return strings.TrimLeft(line[len(scheme):], " "), true
	}
	return line, !h.bearer && line != ""
}

// matchClaim decides a condition on a claim as matchHeader does one on a header.
func (c *conditionMatch) matchClaim(q *query) bool {
	if q.Layer == LayerConnection {
		return q.unknownRequest
	}
	all := q.claims()
	if all == nil {
		return q.unknownRequest
	}
	var v any = all
	for _, name := range c.claim {
		m, ok := v.(map[string]any)
		if !ok && v != nil {
			return q.unclear()
		}
		v = m[name]
	}
	list, ok := v.([]any)
	switch {
	case v == nil || ok && len(list) == 0:
		return c.values == nil
	case !ok:
		s, ok := claimText(v)
		if !ok {
			return q.unclear()
		}
		return in(c.values, c.notValues, s)
	}
	match := !q.anyValue
	has, not := c.values == nil, false
	for _, v := range list {
		s, ok := claimText(v)
		if !ok {
			return q.unclear()
		}
		if in(c.values, c.notValues, s) == q.anyValue {
			match = q.anyValue
		}
		has, not = has || c.values.match(s), not || c.notValues.match(s)
	}
	if c.some {
		return has && !not
	}
	return match
}

// unclear is what a claim amounts to that has no value to compare.
func (q *query) unclear() bool {
	q.token.err = errUnclear
	return q.unknownRequest
}

func claimText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		if v {
			return "true", true
		}
		return "false", true
	}
	return "", false
}

// maxClaimDepth bounds how deep a condition looks into a claim.
const maxClaimDepth = 8

// parseClaim reads what follows "request.jwt.": the names that lead to a claim.
// With "[]" at the end, it is about the values of the claim together.
func parseClaim(s string) (names []string, some bool, err error) {
	path, some := strings.CutSuffix(s, "[]")
	if path == "iss" || path == "sub" || path == "aud" {
		return []string{path}, some, nil
	}
	rest, ok := strings.CutPrefix(path, "claim")
	for ok && rest != "" {
		var name string
		switch rest[0] {
		case '.':
			end := strings.IndexAny(rest[1:], ".[")
			if end < 0 {
				end = len(rest) - 1
			}
			name, rest = rest[1:end+1], rest[end+1:]
			ok = !strings.ContainsAny(name, "]")
		case '[':
			name, rest, ok = strings.Cut(rest[1:], "]")
			ok = ok && !strings.Contains(name, "[")
		default:
			ok = false
		}
		ok = ok && name != "" && len(names) < maxClaimDepth && checkText(name) == nil
		names = append(names, name)
	}
	if !ok || names == nil {
		return nil, false, fmt.Errorf("%q: want %siss, sub, aud, claim.NAME, or claim[NAME] for a name with dots; [] at the end is for one of several; at most %d names deep",
			clip(jwtKey+s, maxText/2), jwtKey, maxClaimDepth)
	}
	return names, some, nil
}

func parseClaimValue(v *values, s string) error {
	sh, text, err := parseShape(s)
	if err != nil {
		return err
	}
	v.add(sh, text)
	return nil
}
