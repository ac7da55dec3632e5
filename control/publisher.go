package control

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"maps"
	"sync"

	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// published is one version of the rules, ready to hand out.
type published struct {
	rules  store.Rules
	signed []byte
	engine *policy.Engine
}

// publisher keeps the current rules signed.
type publisher struct {
	td    spiffeid.TrustDomain
	key   ed25519.PrivateKey
	rules *store.RuleBook

	mu      sync.Mutex
	now     published
	next    published     // what check prepared; it may never be stored
	changed chan struct{} // closed at the next version
}

func newPublisher(td spiffeid.TrustDomain, key ed25519.PrivateKey, rules *store.RuleBook) (*publisher, error) {
	p := &publisher{td: td, key: key, rules: rules, changed: make(chan struct{})}
	return p, p.publish()
}

// prepare compiles and signs rules.
func (p *publisher) prepare(r store.Rules) (published, error) {
	revoked, err := bundled(r)
	if err != nil {
		return published{}, err
	}
	authorities, err := announced(r)
	if err != nil {
		return published{}, err
	}
	b := &policy.Bundle{
		TrustDomain: p.td, Version: r.Version, Issued: r.At, Documents: r.Documents, Revoked: revoked, Authorities: authorities,
	}
	engine, err := policy.Compile(b)
	if err != nil {
		return published{}, err
	}
	signed, err := policy.Sign(b, p.key)
	if err != nil {
		return published{}, err
	}
	return published{r, signed, engine}, nil
}

// check is the store's [store.Check]: it refuses what could not be published.
func (p *publisher) check(r store.Rules) error {
	next, err := p.prepare(r)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = next
	return nil
}

// publish hands out the rules in the store, unless they are out already.
func (p *publisher) publish() error {
	rules := p.rules.Rules() // not under our lock: the store holds its own while it asks check
	p.mu.Lock()
	defer p.mu.Unlock()
	if rules.Version <= p.now.rules.Version {
		return nil
	}
	if !same(p.next.rules, rules) {
		next, err := p.prepare(rules)
		if err != nil {
			return err
		}
		p.next = next
	}
	p.now, p.next = p.next, published{}
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}

// same reports whether a and b are one value: a version alone is not enough, since a change
// that was checked may not have been stored.
func same(a, b store.Rules) bool {
	return a.Version == b.Version && a.At.Equal(b.At) && len(a.Documents) == len(b.Documents) &&
		(len(a.Documents) == 0 || &a.Documents[0] == &b.Documents[0]) &&
		maps.EqualFunc(a.Attached, b.Attached, func(x, y json.RawMessage) bool { return bytes.Equal(x, y) })
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

// newer returns the first version after the given one, and waits for it until ctx is done or stop is closed.
func (p *publisher) newer(ctx context.Context, after uint64, stop <-chan struct{}) (published, bool) {
	for {
		now, changed := p.current()
		if now.rules.Version > after {
			return now, true
		}
		select {
		case <-changed:
		case <-stop:
			return published{}, false
		case <-ctx.Done():
			return published{}, false
		}
	}
}
