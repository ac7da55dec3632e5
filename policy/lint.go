package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Lint tells what in documents is valid and yet likely a mistake: rules that can't match, that another rule makes
// useless, or that mean something else where connections are decided as a whole. It looks at the documents
// alone; [Engine.Check] knows a listener too. Documents that are not valid are passed over.
func Lint(docs []Document) []Warning {
	l := linter{wide: make(map[string][]*compiledRule), defaults: make(map[string]*fallback)}
	same := make(sameOperations)
	var all []*compiledDoc
	var issuers []string
	for i := range docs {
		valid := true
		c := compileDocument(&docs[i], same, func(*path, string) { valid = false })
		switch {
		case !valid:
		case c.doc != nil:
			all = append(all, c.doc)
			l.see(c.doc)
		case c.fallback != nil:
			if c.fallback.verdict != "" {
				l.defaults[c.fallback.destination] = c.fallback
			}
			if c.fallback.verdict == ActionAllow {
				l.warn(c.fallback.name, "spec.verdict", "allows whatever no rule denies; it is meant for the time of a migration")
			}
		case c.issuer != nil:
			issuers = append(issuers, docs[i].Metadata.Name)
		}
	}
	l.issuer = len(issuers) > 0
	for _, doc := range all {
		l.document(doc)
	}
	if !l.claims {
		for _, name := range issuers {
			l.warn(name, "", "no rule looks at a claim of its tokens")
		}
	}
	return l.out
}

type linter struct {
	out            []Warning
	issuer, claims bool
	// wide holds enforced rules that look at nothing but the caller's name, by destination as written.
	wide     map[string][]*compiledRule
	defaults map[string]*fallback
}

func (l *linter) warn(document, field, format string, args ...any) {
	l.out = append(l.out, Warning{document, field, fmt.Sprintf(format, args...)})
}

// maxWide bounds the rules of a destination that every other is held against.
const maxWide = 100

func (l *linter) see(doc *compiledDoc) {
	for i := range doc.rules {
		r := &doc.rules[i]
		if doc.mode == ModeEnforce && doc.action != ActionAudit && len(r.to) == 0 && len(r.when) == 0 && r.named() && len(l.wide[doc.destination]) < maxWide {
			l.wide[doc.destination] = append(l.wide[doc.destination], r)
		}
	}
}

// named reports whether the rule knows callers by nothing but their service.
func (r *compiledRule) named() bool {
	for _, s := range r.from {
		if s.more != nil {
			return false
		}
	}
	return true
}

func (l *linter) document(doc *compiledDoc) {
	if len(doc.rules) == 0 {
		l.warn(doc.name, "spec.rules", "has no rules and matches nothing")
	}
	for i := range doc.rules {
		r := &doc.rules[i]
		at := r.field()
		if f := r.impossible(at); f != nil {
			l.warn(doc.name, f.String(), "can't match: what is asked for is also left out")
			continue
		}
		l.mixed(r, at)
		l.commas(r, at)
		l.unseen(r, at)
		l.overruled(r, at)
	}
}

// impossible returns where a rule contradicts itself.
func (r *compiledRule) impossible(at *path) *path {
	alternatives := 0
	for i := range r.from {
		m := r.from[i].more
		if m == nil || !m.notServices.covers(r.from[i].services) && !m.notTrustDomains.covers(m.trustDomains) {
			alternatives++
		}
	}
	if len(r.from) > 0 && alternatives == 0 {
		return at.at("from")
	}
	for i := range r.when {
		c := &r.when[i]
		if c.notValues.covers(c.values) && (c.values != nil || c.notValues.covers(values{{shape: shapeAny}}) && c.kind == conditionPort) {
			return &path{up: at.at("when"), index: i}
		}
	}
	return nil
}

// covers reports whether whatever matches w surely matches v; a w that is not there is anything.
func (v values) covers(w values) bool {
	if w == nil {
		w = values{{shape: shapeAny}}
	}
	for i := range w {
		if p := &w[i]; p.shape == shapeSet {
			for s := range p.more.set {
				if !v.match(s) {
					return false
				}
			}
		} else if !v.coversPattern(p) {
			return false
		}
	}
	return true
}

func (v values) coversPattern(p *pattern) bool {
	for i := range v {
		q := &v[i]
		switch {
		case q.shape == shapeAny,
			p.shape == shapeExact && q.match(p.text),
			p.shape == shapePrefix && q.shape == shapePrefix && q.match(p.text),
			p.shape == shapeSuffix && q.shape == shapeSuffix && q.match(p.text):
			return true
		}
	}
	return false
}

// mixed finds operations that ask for HTTP and gRPC at once, which no request is.
func (l *linter) mixed(r *compiledRule, at *path) {
	for i, o := range r.to {
		var http, grpc bool
		for _, t := range o {
			grpc = grpc || t.field == fieldGRPC
			http = http || t.field == fieldHosts || t.field == fieldMethods || t.field == fieldPaths
		}
		if !http || !grpc {
			continue
		}
		at := &path{up: at.at("to"), index: i}
		if r.doc.action == ActionDeny {
			l.warn(r.policy, at.String(), "no request has both HTTP fields and a gRPC method: whichever is missing counts as a match of this deny; make two operations of it")
		} else {
			l.warn(r.policy, at.String(), "can't match: no request has both HTTP fields and a gRPC method; make two operations of it")
		}
	}
}

// commas finds values of a deny that joined lines hide.
func (l *linter) commas(r *compiledRule, at *path) {
	for i := range r.when {
		c := &r.when[i]
		hidden := func(p pattern) bool {
			if p.shape != shapeSet {
				return strings.Contains(p.text, ",")
			}
			return slices.ContainsFunc(slices.Collect(maps.Keys(p.more.set)), func(s string) bool { return strings.Contains(s, ",") })
		}
		if r.doc.action == ActionDeny && c.kind == conditionHeader && slices.ContainsFunc(c.values, hidden) {
			l.warn(r.policy, (&path{up: at.at("when"), index: i}).String(),
				"a value with a comma is held against whole lines only; who adds another element to the line gets around this deny")
		}
	}
}

// unseen tells what a rule about requests does where there are only connections or no tokens.
func (l *linter) unseen(r *compiledRule, at *path) {
	if f := r.needs(func(values) bool { return true }); f == fieldClaim {
		l.claims = true
		if !l.issuer {
			l.warn(r.policy, at.at("when").String(), "looks at a claim, and no document is a TokenIssuer: the claims are unavailable")
		} else if r.doc.action == ActionDeny {
			l.warn(r.policy, at.at("when").String(), "also denies every request that has no valid token")
		}
	}
	// A port that is named was thought of.
	f := r.needs(func(ports values) bool { return ports == nil })
	switch {
	case f == matched:
	case r.doc.action == ActionAllow:
		l.warn(r.policy, at.String(), "looks at the %s: where a port of %s serves connections, not requests, this rule allows nothing; name the ports that it is for", f, r.doc.destination)
	case r.doc.action == ActionDeny:
		l.warn(r.policy, at.String(), "looks at the %s: where a port of %s serves connections, not requests, this rule closes it to all whom it could deny; name the ports that it is for", f, r.doc.destination)
	}
}

// overruled finds rules that change nothing, since a wider one decides.
func (l *linter) overruled(r *compiledRule, at *path) {
	if r.doc.mode != ModeEnforce || r.doc.action == ActionAudit {
		return
	}
	allowed := ""
	for d := r.doc.destination; ; d = wider(d) {
		for _, w := range l.wide[d] {
			if w == r || !w.holds(r) {
				continue
			}
			switch {
			case w.doc.action == ActionDeny && r.doc.action == ActionAllow:
				l.warn(r.policy, at.String(), "allows nothing: %s[%d] denies all of it", w.policy, w.index)
				return
			case w.doc.action == r.doc.action && (!r.holds(w) || d != r.doc.destination || w.before(r)):
				allowed = fmt.Sprintf("changes nothing: %s[%d] does all of it", w.policy, w.index)
			}
		}
		if d == "*" {
			break
		}
	}
	if f := l.defaultFor(r.doc.destination); f != nil && f.verdict == ActionAllow && r.doc.action == ActionAllow && allowed == "" {
		allowed = "changes nothing: " + f.name + " allows by default"
	}
	if allowed != "" {
		l.warn(r.policy, at.String(), "%s", allowed)
	}
}

// before puts an order on rules that say the same, so that one of them is not warned of.
func (r *compiledRule) before(o *compiledRule) bool {
	return r.policy < o.policy || r.policy == o.policy && r.index < o.index
}

// holds reports whether every caller that o names is one that r names.
func (r *compiledRule) holds(o *compiledRule) bool {
	if len(r.from) == 0 {
		return true
	}
	if len(o.from) == 0 {
		return false
	}
	for _, s := range o.from {
		covered := false
		for _, w := range r.from {
			covered = covered || s.services != nil && w.own == s.own && (s.more == nil || s.more.trustDomains == nil) && w.services.covers(s.services)
		}
		if !covered {
			return false
		}
	}
	return true
}

// wider returns the next destination around one as written.
func wider(destination string) string {
	name := destination
	if p := len(name) - len("/*"); p > 0 && name[p:] == "/*" {
		name = name[:p]
	}
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '/' {
			return name[:i+1] + "*"
		}
	}
	return "*"
}

func (l *linter) defaultFor(destination string) *fallback {
	for d := destination; ; d = wider(d) {
		if f := l.defaults[d]; f != nil || d == "*" {
			return f
		}
	}
}
