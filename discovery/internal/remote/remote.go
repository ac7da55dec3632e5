// Package remote is what sources share that follow a server over HTTPS.
package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"time"
)

// Transport returns a new HTTP transport. It speaks TLS 1.3 alone and uses no proxy; a connection over which nothing
// comes any more is noticed within a minute when it is HTTP/2.
func Transport(conf *tls.Config) *http.Transport {
	conf = conf.Clone()
	conf.MinVersion = tls.VersionTLS13
	return &http.Transport{
		TLSClientConfig:     conf,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// URL reads a server's URL. Tokens and what is decided by the answers go over TLS, or stay on this machine.
func URL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("the URL can't be read") // it may hold a password
	}
	ip, _ := netip.ParseAddr(u.Hostname())
	local := u.Scheme == "http" && (ip.IsLoopback() || u.Hostname() == "localhost")
	if u.Host == "" || u.Scheme != "https" && !local {
		return nil, fmt.Errorf("%q: want an https URL, or http on the loopback interface", u.Redacted())
	}
	return u, nil
}

// Stay refuses redirects, which would take a token elsewhere. It is an [http.Client]'s CheckRedirect.
func Stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Roots reads certificates in PEM from a file.
func Roots(path string) (*x509.CertPool, []byte, error) {
	pem, err := File(path)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("%s holds no certificate", path)
	}
	return pool, pem, nil
}

const maxFile = 1 << 20

// File reads a small file without the space around its content.
func File(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	return bytes.TrimSpace(b), err
}

// Token reads a token that may be sent in a header. No error holds any of it.
func Token(path string) (string, error) {
	b, err := File(path)
	if err != nil {
		return "", err
	}
	if len(b) == 0 || bytes.ContainsFunc(b, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s holds no token", path)
	}
	return string(b), nil
}

// ErrTooLarge is returned when a server sends more than is taken.
var ErrTooLarge = errors.New("the server sends more than is taken")

// A Budget is a reader that fails once it has been read from for more than Left bytes.
type Budget struct {
	io.Reader
	Left int
}

// Read implements [io.Reader].
func (b *Budget) Read(p []byte) (int, error) {
	if b.Left <= 0 {
		return 0, ErrTooLarge
	}
	n, err := b.Reader.Read(p[:min(len(p), b.Left)])
	b.Left -= n
	return n, err
}

// Decode reads one JSON value of at most limit bytes, which ends the stream.
func Decode(r io.Reader, limit int, v any) error {
	r = &Budget{r, limit}
	if err := json.NewDecoder(r).Decode(v); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// A StatusError is an answer of a server that is not what was asked for.
type StatusError struct {
	Code    int
	Message string // what the server says, shortened
	// After is when the server wants to be asked again; 0 when it does not say.
	After time.Duration
}

// Error says what the server said.
func (e *StatusError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the server answers %d", e.Code)
	}
	return fmt.Sprintf("the server answers %d: %q", e.Code, e.Message)
}

// maxMessage bounds what a server can add to our logs.
const maxMessage = 300

// Status returns the error of an answer; message is what it says.
func Status(resp *http.Response, message string) *StatusError {
	e := &StatusError{Code: resp.StatusCode, Message: message[:min(len(message), maxMessage)]}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		e.After = min(time.Duration(n)*time.Second, time.Minute)
	}
	return e
}

// A Backoff says how long to wait before one more attempt.
type Backoff struct {
	// Min and Max bound the wait.
	Min, Max time.Duration
	failures int
	since    time.Time
	code     int // of the last one, 0 when the server did not answer
}

// Failed notes a failure, and returns how many there were in a row and for how long now. It is news when it is the first, or the server
// now answers something else than before: who was away, and then refuses the token, is to be read of in the log.
func (b *Backoff) Failed(err error) (n int, lasting time.Duration, news bool) {
	code := 0
	if s := (*StatusError)(nil); errors.As(err, &s) {
		code = s.Code
	}
	news = b.failures == 0 || code != b.code
	if b.failures == 0 {
		b.since = time.Now()
	}
	b.failures++
	b.code = code
	return b.failures, time.Since(b.since), news
}

// Worked notes success, and reports whether there had been failures.
func (b *Backoff) Worked() bool {
	failed := b.failures > 0
	b.failures = 0
	return failed
}

// Wait waits before the next attempt, for a time that doubles with each failure; half of it is random, so that
// what failed together does not come back together. After the error that is given it waits as long as the server wants. It returns
// false when ctx is done.
func (b *Backoff) Wait(ctx context.Context, err error) bool {
	d := min(b.Min<<min(max(b.failures-1, 0), 20), b.Max)
	d = d/2 + rand.N(d/2+1) //nolint:gosec // nothing to guess
	if s := (*StatusError)(nil); errors.As(err, &s) {
		d = max(d, s.After)
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
