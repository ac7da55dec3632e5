package mesh

import (
	"context"
	"time"

	"github.com/intramesh/mesh/policy"
)

// watch decides open connections again whenever the rules or the trust bundle change.
func (m *Mesh) watch(ctx context.Context) {
	var updated <-chan struct{}
	if u, ok := m.identity.(interface{ Updated() <-chan struct{} }); ok {
		updated = u.Updated()
	}
	verify := true
	g := m.generation.Load()
	rules, trust := g.rules, g.trust
	var last *policy.Engine
	for {
		// All of it after the channels were taken: no change is missed.
		engine := policy.EngineOf(m.policy)
		m.recheckAll(ctx, verify, !engine.SameRevocations(last))
		m.checkRules()
		m.followAuthorities(engine)
		m.tellBundle()
		last, verify = engine, true
		select {
		case <-rules:
			rules, verify = changed(m.policy), false
		case <-trust:
			trust = changed(m.identity)
		case <-updated:
		case <-ctx.Done():
			return
		}
		m.nextGeneration(rules, trust)
	}
}

// changed returns the channel that announces v's next change, or nil when v never changes.
func changed(v any) <-chan struct{} {
	if c, ok := v.(interface{ Changed() <-chan struct{} }); ok {
		return c.Changed()
	}
	return nil
}

// recheckAll decides everything that is open again. What is cheap and cuts most comes first: verifying a certificate takes
// a hundred times what a decision does, and is done only when the trust bundle may have changed.
func (m *Mesh) recheckAll(ctx context.Context, verify, revoked bool) {
	var p stint
	if revoked {
		m.cutRevoked(&p)
	}
	for _, k := range m.conns.keys() {
		m.recheckGroup(ctx, k, &p)
	}
	if verify {
		for _, sc := range m.conns.all() {
			sc.verify()
			p.rest()
		}
	}
}

// recheckGroup closes the connections of a group when they are no longer allowed, or those of their requests that are not.
func (m *Mesh) recheckGroup(ctx context.Context, k connKey, p *stint) {
	rules, conns := m.conns.group(k)
	if rules == nil {
		return
	}
	r := k.request(m.service)
	dec := rules.Authorize(ctx, r)
	d := m.decided(ctx, r, &dec)
	p.rest()
	if k.refused && d != nil {
		return
	}
	for _, sc := range conns {
		switch {
		case k.refused && sc.raw == nil:
			sc.noLongerRefused()
		case k.refused:
		case sc.parked(): // the next stream will be decided
		case d != nil:
			sc.cut(d)
		default:
			sc.recheckRequests(ctx)
		}
		p.rest()
	}
}

// stint keeps long work from holding up everything else: on one processor, the runtime looks for what came in by the network when
// nothing is left to run. The zero value is ready.
type stint struct{ worked time.Time }

const (
	workFor = 200 * time.Microsecond
	restFor = 20 * time.Microsecond
)

// rest returns at once, or a moment later when it is time.
func (p *stint) rest() {
	switch now := time.Now(); {
	case p.worked.IsZero():
		p.worked = now
	case now.Sub(p.worked) > workFor:
		time.Sleep(restFor) //nolint:forbidigo // there is no event: it lets others go first
		p.worked = time.Now()
	}
}
