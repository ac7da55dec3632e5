package identity

import (
	"crypto/x509"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// An ExpiredError is returned by GetX509SVID when the certificate has expired and no newer one
// could be had: the process then neither listens nor dials.
type ExpiredError struct {
	// ID is whose certificate it was.
	ID spiffeid.ID
	// NotAfter is when it expired.
	NotAfter time.Time
	// Help says what to do about it.
	Help string
}

// Error names the ID, the time and the way out.
func (e *ExpiredError) Error() string {
	return fmt.Sprintf("identity: the certificate of %s expired at %s: %s", e.ID, e.NotAfter.Format(time.RFC3339), e.Help)
}

// current is what a source that changes answers from.
type current struct {
	help     string // for ExpiredError
	snapshot atomic.Pointer[snapshot]

	mu      sync.Mutex
	changed chan struct{} // nil until somebody asks
}

type snapshot struct {
	svid    *x509svid.SVID
	expires time.Time
	bundle  *x509bundle.Bundle
}

// set replaces both. A bundle with the same authorities keeps its pointer, so that whoever
// compares pointers sees a change only when there is one.
func (c *current) set(svid *x509svid.SVID, bundle *x509bundle.Bundle) {
	if old := c.snapshot.Load(); old != nil && old.bundle.Equal(bundle) {
		bundle = old.bundle
	}
	c.snapshot.Store(&snapshot{svid, expiry(svid.Certificates), bundle})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// GetX509SVID returns the newest SVID, or an *ExpiredError. It does not block.
func (c *current) GetX509SVID() (*x509svid.SVID, error) {
	s := c.snapshot.Load()
	if time.Now().After(s.expires) {
		return nil, &ExpiredError{ID: s.svid.ID, NotAfter: s.expires, Help: c.help}
	}
	return s.svid, nil
}

// GetX509BundleForTrustDomain returns the newest roots of the SVID's own trust domain, and
// an error for every other one. It does not block. The bundle is shared: don't change it.
func (c *current) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	s := c.snapshot.Load()
	if td != s.bundle.TrustDomain() {
		return nil, fmt.Errorf("identity: no bundle of trust domain %s: this process trusts only %s", td, s.bundle.TrustDomain())
	}
	return s.bundle, nil
}

// Changed returns a channel that is closed when the SVID or the roots change next. Get it
// before reading what may change.
func (c *current) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}

// expiry is when the first certificate of a chain expires.
func expiry(chain []*x509.Certificate) time.Time {
	first := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}
