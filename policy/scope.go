package policy

import (
	"hash/maphash"
	"slices"
)

// A scope holds the rules whose destination is written in one way ("payments", "billing/*"
// or "*"). Parent is the next wider one.
type scope struct {
	// allow and deny are enforced. denies says that deny has rules; it is at hand for the many that have none.
	allow  index
	parent *scope
	denies bool
	// recorded says that there are rules here or in a parent that are recorded only.
	recorded bool
	// headers says that there are rules here or in a parent that look at headers or tokens, be it for the record only.
	headers  bool
	tell     bool      // denials are explained to members
	fallback *fallback // the default that is written for exactly this; may be nil
	deny     index
	shadows  *shadows
	// allowDocs counts the allow documents and dryDocs those in dry run, for the reason
	// of a denial.
	allowDocs, dryDocs int
}

// shadows are the rules of a scope that are recorded only.
type shadows struct{ audit, dryDeny, dryAllow index }

// index returns where the rules of a document go.
func (s *scope) index(a Action, m Mode) *index {
	if a != ActionAudit && m != ModeDryRun {
		if a == ActionDeny {
			return &s.deny
		}
		return &s.allow
	}
	if s.shadows == nil {
		s.shadows = &shadows{}
	}
	switch a {
	case ActionAudit:
		return &s.shadows.audit
	case ActionDeny:
		return &s.shadows.dryDeny
	}
	return &s.shadows.dryAllow
}

// find returns an enforced rule that matches, nil for none: of several, one whose destination is written most exactly.
func (s *scope) find(a Action, q *query) *compiledRule {
	for ; s != nil; s = s.parent {
		ix := &s.allow
		if a == ActionDeny {
			if !s.denies {
				continue
			}
			ix = &s.deny
		}
		if rule := ix.find(q); rule != nil {
			return rule
		}
	}
	return nil
}

func (s *scope) add(doc *compiledDoc) {
	if doc.action == ActionAllow && doc.mode == ModeDryRun {
		s.dryDocs++
	} else if doc.action == ActionAllow {
		s.allowDocs++
	}
	ix := s.index(doc.action, doc.mode)
	for i := range doc.rules {
		ix.add(&doc.rules[i])
		s.headers = s.headers || doc.rules[i].looksAtHeaders()
	}
}

// done ends the adding, once parent is set.
func (s *scope) done(seed maphash.Seed) {
	s.tell, s.denies = s.explained(), len(s.deny.rules) > 0
	s.allow.done(seed)
	s.deny.done(seed)
	if s.shadows != nil {
		s.shadows.audit.done(seed)
		s.shadows.dryDeny.done(seed)
		s.shadows.dryAllow.done(seed)
	}
	for p := s; p != nil; p = p.parent {
		s.recorded = s.recorded || p.shadows != nil
		s.headers = s.headers || p.headers
	}
}

// looksAtRequests reports whether two requests of one connection can differ to the rule.
func (r *compiledRule) looksAtRequests() bool {
	return r.looksAtHeaders() || slices.ContainsFunc(r.to, func(o operationMatch) bool {
		return slices.ContainsFunc(o, func(t test) bool { return t.field != fieldPorts })
	})
}

func (r *compiledRule) looksAtHeaders() bool {
	return slices.ContainsFunc(r.when, func(c conditionMatch) bool { return c.kind == conditionHeader || c.kind == conditionClaim })
}
