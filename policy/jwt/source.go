package jwt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/intramesh/mesh/policy"
)

// source is where an issuer's keys come from, a URL or the rules themselves. Verifier.mu guards it.
type source struct {
	keys *keySet // the last ones that were got; nil before
	raw  []byte  // what they were read of
	err  error   // of the last try, nil if it succeeded

	got      time.Time     // when keys were last confirmed
	tried    time.Time     // when the last try ended
	failures int           // in a row
	fetching chan struct{} // closed when the try under way ends; nil when there is none
	used     time.Time
}

const (
	refreshAfter = 5 * time.Minute
	staleAfter   = 24 * time.Hour
	// unknownEvery bounds how often tokens with unknown keys make us ask.
	unknownEvery = 10 * time.Second
	fetchTimeout = 10 * time.Second
	minBackoff   = time.Second
	maxBackoff   = time.Minute
	maxRedirects = 3
	maxSources   = 2 * policy.MaxIssuers
)

// keysFor returns the issuer's keys. It starts to fetch them when they are missing or old.
func (v *Verifier) keysFor(t *policy.TokenIssuer, now time.Time) (*keySet, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.source(t, now)
	if t.JWKSURL == "" {
		if s.err != nil {
			return nil, fmt.Errorf("the keys of %s in the rules are of no use: %w", t.Issuer, s.err)
		}
		return s.keys, nil
	}
	age := now.Sub(s.got)
	if s.keys == nil || age >= refreshAfter {
		v.fetch(t, s, now)
	}
	switch {
	case s.keys != nil && age < staleAfter:
		return s.keys, nil
	case s.fetching != nil:
		return nil, &policy.PendingError{Ready: s.fetching, Issuer: t.Issuer}
	}
	return nil, fmt.Errorf("the keys of %s can't be fetched", t.Issuer)
}

// refetch asks anew for keys that miss one. It returns an error when a token should wait for the answer.
func (v *Verifier) refetch(t *policy.TokenIssuer, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.source(t, now)
	if t.JWKSURL == "" {
		return nil
	}
	if now.Sub(s.tried) >= unknownEvery {
		v.fetch(t, s, now)
	}
	if s.fetching == nil {
		return nil
	}
	return &policy.PendingError{Ready: s.fetching, Issuer: t.Issuer}
}

// source returns the issuer's. The caller holds mu.
func (v *Verifier) source(t *policy.TokenIssuer, now time.Time) *source {
	name := t.JWKSURL
	if name == "" {
		name = string(t.Digest[:])
	}
	s := v.sources[name]
	if s == nil {
		v.forget()
		s = new(source)
		if t.JWKSURL == "" {
			s.keys, s.err = parseKeys([]byte(t.JWKS))
		}
		v.sources[name] = s
	}
	s.used = now
	return s
}

// forget makes room for one more: other rules leave sources behind that nobody uses.
func (v *Verifier) forget() {
	if len(v.sources) < maxSources {
		return
	}
	oldest := ""
	for name, s := range v.sources {
		if s.fetching == nil && (oldest == "" || s.used.Before(v.sources[oldest].used)) {
			oldest = name
		}
	}
	delete(v.sources, oldest)
}

// fetch starts to fetch keys, unless it is being done, or failed a moment ago. The caller holds mu.
func (v *Verifier) fetch(t *policy.TokenIssuer, s *source, now time.Time) {
	if s.fetching != nil || v.closed {
		return
	}
	if s.failures > 0 {
		pause := maxBackoff
		if s.failures < 7 {
			pause = min(maxBackoff, minBackoff<<(s.failures-1))
		}
		if now.Sub(s.tried) < pause {
			return
		}
	}
	s.fetching = make(chan struct{})
	v.wg.Go(func() {
		raw, err := v.get(t.JWKSURL)
		v.settle(t, s, raw, err)
	})
}

// settle takes what a fetch brought.
func (v *Verifier) settle(t *policy.TokenIssuer, s *source, raw []byte, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(s.fetching)
	s.fetching, s.tried = nil, time.Now()
	if err == nil && (s.keys == nil || !bytes.Equal(raw, s.raw)) {
		var keys *keySet
		if keys, err = parseKeys(raw); err == nil {
			s.keys, s.raw = keys, raw
			v.log.Info("keys of a token issuer", "issuer", t.Issuer, "url", t.JWKSURL, "keys", len(keys.keys))
		}
	}
	s.err = err
	if err == nil {
		s.got, s.failures = s.tried, 0
		return
	}
	s.failures++
	if v.ctx.Err() == nil {
		v.log.Warn("the keys of a token issuer could not be fetched", "issuer", t.Issuer, "url", t.JWKSURL, "error", err,
			"failures", s.failures, "last_good", s.got)
	}
}

// get returns what the URL has.
func (v *Verifier) get(url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(v.ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	if req.URL.Scheme != "https" {
		return nil, errNotHTTPS
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := v.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %d", resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, policy.MaxJWKS+1))
	if err == nil && len(raw) > policy.MaxJWKS {
		err = fmt.Errorf("larger than %d bytes", policy.MaxJWKS)
	}
	return raw, err
}

var errNotHTTPS = errors.New("not an https URL")

// checkRedirect follows a few redirects, and only to https.
func checkRedirect(then func(*http.Request, []*http.Request) error) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		switch {
		case req.URL.Scheme != "https":
			return errNotHTTPS
		case len(via) > maxRedirects:
			return errors.New("too many redirects")
		case then != nil:
			return then(req, via)
		}
		return nil
	}
}
