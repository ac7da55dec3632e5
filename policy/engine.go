package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// An Engine decides by the rules of one bundle. It never changes, and is safe for concurrent
// use. A nil or zero Engine denies everything.
//
// An enforced deny that matches wins over every allow; without an allow that matches, the
// answer is the default's, which is deny without a document of that kind. Where several rules would decide alike, the decision names one whose destination
// and source are written most exactly.
type Engine struct {
	version uint64
	ready   bool
	// trustDomain is the mesh's own.
	trustDomain string
	exact       map[string]*scope // by destination
	prefix      map[string]*scope // "billing/" → billing/*
	wildcard    *scope            // "*"
	docs        []*compiledDoc    // in the order of the bundle
	issuers     []headerIssuers
	revoked     *revocations
}

// Compile makes an engine of a bundle's documents. Its error is a [*ParseError] when one of them
// is not valid. The bundle is not kept.
func Compile(b *Bundle) (*Engine, error) {
	if b.TrustDomain.IsZero() {
		return nil, errors.New("policy: the bundle names no trust domain")
	}
	e := &Engine{
		version:     b.Version,
		ready:       true,
		trustDomain: b.TrustDomain.Name(),
		exact:       make(map[string]*scope),
		prefix:      make(map[string]*scope),
		wildcard:    &scope{},
		docs:        make([]*compiledDoc, 0, len(b.Documents)),
	}
	ps := &problems{}
	taken := make(taken)
	for i := range b.Documents {
		doc := &b.Documents[i]
		report := func(at *path, msg string) {
			ps.add(Problem{Document: doc.Metadata.Name, Field: at.String(), Message: msg})
		}
		taken.claim(doc, 0, report)
		switch c := compileDocument(doc, b.TrustDomain.Name(), report); {
		case c.doc != nil:
			e.docs = append(e.docs, c.doc)
		case c.fallback != nil:
			e.scopeFor(doc.Default.Service).fallback = c.fallback
		case c.issuer != nil:
			e.addIssuer(c.issuer)
		}
	}
	if n := e.Issuers(); len(n) > MaxIssuers {
		ps.add(Problem{Message: fmt.Sprintf("%d documents of kind %s; at most %d are accepted", len(n), KindTokenIssuer, MaxIssuers)})
	}
	e.revoked = compileRevocations(b.Revoked, func(at *path, msg string) { ps.add(Problem{Field: at.String(), Message: msg}) })
	if err := ps.err(); err != nil {
		return nil, err
	}
	for _, doc := range e.docs {
		e.scopeFor(doc.destination).add(doc)
	}
	e.link()
	return e, nil
}

// Static returns an engine for fixed rules, for a program without a control plane. The services
// that the documents name are those of the trust domain. Its decisions have version 0.
func Static(trustDomain spiffeid.TrustDomain, docs ...Document) (*Engine, error) {
	return Compile(&Bundle{TrustDomain: trustDomain, Documents: docs})
}

// scopeFor returns the scope of a destination as written, and makes it.
func (e *Engine) scopeFor(destination string) *scope {
	if destination == "*" {
		return e.wildcard
	}
	m := e.exact
	if p, ok := strings.CutSuffix(destination, "*"); ok {
		m, destination = e.prefix, p
	}
	if m[destination] == nil {
		m[destination] = &scope{}
	}
	return m[destination]
}

// link gives each scope its parent.
func (e *Engine) link() {
	for destination, s := range e.exact {
		s.parent = e.around(destination)
	}
	for p, s := range e.prefix {
		s.parent = e.around(strings.TrimSuffix(p, "/"))
	}
	e.wildcard.done()
	for _, m := range []map[string]*scope{e.exact, e.prefix} {
		for _, s := range m {
			s.done()
		}
	}
}

// around returns the narrowest prefix that holds the destination, "*" if there is none.
func (e *Engine) around(destination string) *scope {
	for len(e.prefix) > 0 {
		i := strings.LastIndexByte(destination, '/')
		if i < 0 {
			break
		}
		if s := e.prefix[destination[:i+1]]; s != nil {
			return s
		}
		destination = destination[:i]
	}
	return e.wildcard
}

// scope returns where the rules for a destination start.
func (e *Engine) scope(destination string) *scope {
	if s := e.exact[destination]; s != nil {
		return s
	}
	return e.around(destination)
}

// Version returns the version of the bundle, 0 for a nil Engine.
func (e *Engine) Version() uint64 {
	if e == nil {
		return 0
	}
	return e.version
}

// Reasons of decisions that need no words about the request.
const (
	reasonNoRules  = "no rules have been received yet"
	reasonInvalid  = "the request names no destination or layer"
	reasonMatches  = "a rule matches"
	reasonDeferred = "a rule could match some request; each is decided on its own"
)

// Authorize decides a request. It allocates nothing when it allows, unless an audit or
// dry-run document matches.
func (e *Engine) Authorize(_ context.Context, r *Request) Decision {
	switch {
	case e == nil || !e.ready:
		return Decision{Rule: -1, Layer: r.Layer, Version: e.Version(), Reason: reasonNoRules}
	case r.Destination == "" || r.Layer > LayerGRPC:
		return Decision{Rule: -1, Layer: r.Layer, Version: e.version, Reason: reasonInvalid}
	}
	q := newQuery(r)
	q.engine = e
	return e.decide(&q, e.scope(r.Destination), nil)
}

// decide looks at the rules that are pinned; if there are none, at all of the scope.
func (e *Engine) decide(q *query, scope *scope, pinned *pinnedRules) Decision {
	d := Decision{
		Rule: -1, Layer: q.Layer, Version: e.version, Tell: scope.tell && q.trustDomain == e.trustDomain, HeadersUnused: !scope.headers,
	}
	find := func(a Action) *compiledRule {
		if pinned != nil {
			return pinned.find(a, q.as(a))
		}
		return scope.find(a, q.as(a))
	}
	if rule := find(ActionDeny); rule != nil {
		d.Policy, d.Rule, d.Reason = rule.policy, rule.index, q.whyDenied(rule)
	} else if rule := find(ActionAllow); rule != nil {
		d.Verdict, d.Policy, d.Rule, d.Reason = Allow, rule.policy, rule.index, reasonMatches
		if q.Deferred && q.Layer == LayerConnection {
			d.Reason = reasonDeferred
		}
	} else {
		e.byDefault(&d, q, scope)
	}
	if q.token != nil {
		q.token.limit(&d)
	}
	if scope.recorded {
		d.Shadow = scope.shadow(q, &d)
	}
	return d
}
