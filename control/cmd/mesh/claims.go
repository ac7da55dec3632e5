package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intramesh/mesh/policy"
	"github.com/intramesh/mesh/policy/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// parseClaims reads NAME=VALUE, where NAME is written as in a rule, without "request.jwt.claim". A name that is there several
// times is a list.
func parseClaims(list []string) (json.RawMessage, error) {
	all := make(map[string]any)
	for _, s := range list {
		names, value, err := parseClaim(s)
		if err != nil {
			return nil, fmt.Errorf("--claim %q: %w", s, err)
		}
		m, last := all, len(names)-1
		for _, name := range names[:last] {
			if m[name] == nil {
				m[name] = make(map[string]any)
			}
			inner, ok := m[name].(map[string]any)
			if !ok {
				return nil, fmt.Errorf("--claim %q: %s has a value already", s, name)
			}
			m = inner
		}
		switch had := m[names[last]].(type) {
		case nil:
			m[names[last]] = value
		case string:
			m[names[last]] = []any{had, value}
		case []any:
			m[names[last]] = append(had, value)
		default:
			return nil, fmt.Errorf("--claim %q: %s has members already", s, names[last])
		}
	}
	return json.Marshal(all)
}

func parseClaim(s string) (names []string, value string, err error) {
	for {
		var name string
		if inner, ok := strings.CutPrefix(s, "["); ok {
			if name, s, ok = strings.Cut(inner, "]"); !ok {
				return nil, "", errors.New("a ] is missing")
			}
		} else {
			end := strings.IndexAny(s, ".[=")
			if end < 0 {
				end = len(s)
			}
			name, s = s[:end], s[end:]
		}
		if name == "" {
			return nil, "", errors.New("want NAME=VALUE; NAME.SUB is a member, and [NAME] a name with dots")
		}
		names = append(names, name)
		if value, ok := strings.CutPrefix(s, "="); ok {
			return names, value, nil
		}
		if rest, ok := strings.CutPrefix(s, "."); ok {
			s = rest
		} else if !strings.HasPrefix(s, "[") {
			return nil, "", errors.New("want NAME=VALUE")
		}
	}
}

// keysTime bounds fetching an issuer's keys.
const keysTime = 10 * time.Second

// verifyToken returns the claims of a token, verified as members do: by the issuers in the rules, whose keys it fetches if
// need be. Its error says why the token does not count.
func verifyToken(ctx context.Context, token string, docs []policy.Document) (json.RawMessage, error) {
	issuers := slices.DeleteFunc(slices.Clone(docs), func(d policy.Document) bool { return d.TokenIssuer == nil })
	if len(issuers) == 0 {
		return nil, errors.New("no document of the rules is a TokenIssuer")
	}
	e, err := policy.Static(spiffeid.RequireTrustDomainFromString("any"), issuers...)
	if err != nil {
		return nil, err
	}
	token = strings.TrimSpace(token)
	if scheme, rest, ok := strings.Cut(token, " "); ok && strings.EqualFold(scheme, "bearer") {
		token = strings.TrimSpace(rest)
	}
	v := jwt.New(jwt.Config{})
	defer v.Close()
	ctx, cancel := context.WithTimeout(ctx, keysTime)
	defer cancel()
	for {
		t, err := v.Verify(token, e.Issuers())
		if err == nil {
			return json.Marshal(t.Claims)
		}
		p, pending := errors.AsType[*policy.PendingError](err)
		if !pending {
			return nil, err
		}
		select {
		case <-p.Ready:
		case <-ctx.Done():
			return nil, err
		}
	}
}
