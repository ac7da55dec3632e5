package control

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"sync"
	"time"

	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// published is one version of the rules, ready to hand out.
type published struct {
	version uint64
	signed  []byte
	engine  *policy.Engine
}

// publisher keeps the current rules signed.
type publisher struct {
	td    spiffeid.TrustDomain
	key   ed25519.PrivateKey
	rules store.Store

	mu      sync.Mutex
	now     published
	changed chan struct{} // closed at the next version
}

func newPublisher(td spiffeid.TrustDomain, key ed25519.PrivateKey, rules store.Store) (*publisher, error) {
	p := &publisher{td: td, key: key, rules: rules, changed: make(chan struct{})}
	return p, p.publish()
}

// publish signs the rules in the store, unless that version is out already.
func (p *publisher) publish() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	rules := p.rules.Rules()
	if rules.Version == p.now.version {
		return nil
	}
	b := &policy.Bundle{TrustDomain: p.td, Version: rules.Version, Issued: time.Now(), Documents: rules.Documents}
	engine, err := policy.Compile(b)
	if err != nil {
		return err
	}
	signed, err := policy.Sign(b, p.key)
	if err != nil {
		return err
	}
	p.now = published{rules.Version, signed, engine}
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// follow publishes whatever the store gets, until ctx is done.
func (p *publisher) follow(ctx context.Context, log *slog.Logger) {
	for {
		changed := p.rules.Changed()
		if err := p.publish(); err != nil {
			log.Error("rules can't be published; members keep those they have", "error", err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// current returns what is out, and a channel that is closed when it no longer is.
func (p *publisher) current() (published, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now, p.changed
}

// newer returns the first version after the given one, and waits for it until ctx is done.
func (p *publisher) newer(ctx context.Context, after uint64) (published, bool) {
	for {
		now, changed := p.current()
		if now.version > after {
			return now, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return published{}, false
		}
	}
}

// checkRules refuses what could not be published, before it is stored.
func (s *Server) checkRules(r store.Rules) error {
	_, err := policy.Sign(&policy.Bundle{
		TrustDomain: s.ca.TrustDomain(), Version: r.Version, Issued: time.Now(), Documents: r.Documents,
	}, s.bundleKey)
	return err
}
