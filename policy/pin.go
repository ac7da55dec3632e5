package policy

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Pinned returns an Authorizer that answers as a does, and faster for the connection that r is about: for requests with
// its Source, SourceAddr, Destination, Port and Deferred. The rules that can concern them are looked up once, and once
// more when others have come into force: no answer is by rules that are not. Meanwhile the pin keeps the rules that it last
// decided by in memory.
//
// An Authorizer that can be pinned has a method
//
//	Pin(r *Request) Authorizer
//
// as [Engine], [Syncer] and what [Then] returns have; any other is returned as it is.
func Pinned(a Authorizer, r *Request) Authorizer {
	if p, ok := a.(interface{ Pin(r *Request) Authorizer }); ok {
		return p.Pin(r)
	}
	return a
}

// PinTo is [Pinned] for an Authorizer that decides by an engine that can be replaced.
func PinTo(current *atomic.Pointer[Engine], r *Request) Authorizer {
	p := &pin{current: current, source: r.Source, addr: r.SourceAddr, destination: r.Destination, port: r.Port, deferred: r.Deferred}
	p.renew(current.Load())
	return p
}

// Pin is what [Pinned] calls.
func (e *Engine) Pin(r *Request) Authorizer {
	current := new(atomic.Pointer[Engine])
	current.Store(e)
	return PinTo(current, r)
}

// Pin is what [Pinned] calls.
func (s *Syncer) Pin(r *Request) Authorizer { return PinTo(&s.engine, r) }

type pin struct {
	current           *atomic.Pointer[Engine]
	rules             atomic.Pointer[pinnedRules]
	source            spiffeid.ID
	addr              netip.Addr
	destination, port string
	deferred          bool
}

// pinnedRules is what an engine has for a connection.
type pinnedRules struct {
	engine      *Engine
	scope       *scope
	deny, allow []*bucket
	query       query    // of any request, but for the request
	connection  Decision // at LayerConnection
	requests    Decision // of every request whatever it asks for, if it is an Allow
}

// renew looks the rules up in another engine. Several at once do the same.
func (p *pin) renew(e *Engine) *pinnedRules {
	r := Request{Source: p.source, SourceAddr: p.addr, Destination: p.destination, Port: p.port, Deferred: p.deferred}
	rules := &pinnedRules{engine: e, connection: e.Authorize(context.Background(), &r)}
	if e != nil && e.ready && p.destination != "" {
		if q := e.query(&r); q.service != "" {
			rules.scope = e.scope(p.destination)
			for s := rules.scope; s != nil; s = s.parent {
				rules.deny = s.deny.buckets(&q, rules.deny)
				rules.allow = s.allow.buckets(&q, rules.allow)
			}
			rules.query = q
			rules.query.Request = nil
			if !rules.scope.recorded && sameForAll(rules.deny) && sameForAll(rules.allow) {
				r.Layer = LayerHTTP
				rules.requests = rules.decide(&r)
			}
		}
	}
	p.rules.Store(rules)
	return rules
}

// Authorize decides as the engine in force does.
func (p *pin) Authorize(ctx context.Context, r *Request) Decision {
	rules := p.rules.Load()
	if e := p.current.Load(); e != rules.engine {
		rules = p.renew(e)
	}
	switch {
	case r.Source != p.source || r.SourceAddr != p.addr || r.Destination != p.destination || r.Port != p.port:
	case r.Layer == LayerConnection && r.Deferred == p.deferred:
		return rules.connection
	case rules.scope != nil && (r.Layer == LayerHTTP || r.Layer == LayerGRPC):
		if rules.requests.Verdict == Allow {
			d := rules.requests
			d.Layer = r.Layer
			return d
		}
		return rules.decide(r)
	}
	return rules.engine.Authorize(ctx, r)
}

// decide decides a request of the connection.
func (p *pinnedRules) decide(r *Request) Decision {
	q, d := p.query, Decision{Rule: -1, Layer: r.Layer}
	q.Request = r
	p.engine.decide(&d, &q, p.scope, p)
	return d
}

// find is that of the scope, without looking it up.
func (p *pinnedRules) find(a Action, q *query) *compiledRule {
	buckets := p.allow
	if a == ActionDeny {
		buckets = p.deny
	}
	for _, b := range buckets {
		if r := b.find(q); r != nil {
			return r
		}
	}
	return nil
}

// sameForAll reports whether the rules do not look at the requests of a connection, only at the connection.
func sameForAll(buckets []*bucket) bool {
	looks := func(c clause) bool { return c.rule != nil && c.rule.looksAtRequests() }
	for _, b := range buckets {
		if looks(b.first) || b.more != nil && slices.ContainsFunc(b.more.all, looks) {
			return false
		}
	}
	return true
}
