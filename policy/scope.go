package policy

import "slices"

// A scope holds the rules whose destination is written in one way ("payments", "billing/*"
// or "*"). Parent is the next wider one.
type scope struct {
	// deny and allow are enforced.
	deny, allow *index
	parent      *scope
	// recorded says that there are rules here or in a parent that are recorded only.
	recorded bool
	// headers says that there are rules here or in a parent that look at headers or tokens, be it for the record only.
	headers                  bool
	audit, dryDeny, dryAllow *index
	// allowDocs counts the allow documents and dryDocs those in dry run, for the reason
	// of a denial.
	allowDocs, dryDocs int
	fallback           *fallback // the default that is written for exactly this; may be nil
	tell               bool      // denials are explained to members
}

// index returns where the rules of a document go.
func (s *scope) index(a Action, m Mode) **index {
	switch {
	case a == ActionAudit:
		return &s.audit
	case a == ActionDeny && m == ModeDryRun:
		return &s.dryDeny
	case a == ActionDeny:
		return &s.deny
	case m == ModeDryRun:
		return &s.dryAllow
	}
	return &s.allow
}

// find returns an enforced rule that matches, nil for none: of several, one whose destination is written most exactly.
func (s *scope) find(a Action, q *query) *compiledRule {
	for ; s != nil; s = s.parent {
		ix := s.allow
		if a == ActionDeny {
			ix = s.deny
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
		if *ix == nil {
			*ix = &index{}
		}
		(*ix).add(&doc.rules[i])
		s.headers = s.headers || doc.rules[i].looksAtHeaders()
	}
}

// done ends the adding, once parent is set.
func (s *scope) done() {
	s.tell = s.explained()
	for _, ix := range []*index{s.deny, s.allow, s.audit, s.dryDeny, s.dryAllow} {
		if ix != nil {
			ix.done()
		}
	}
	for p := s; p != nil; p = p.parent {
		s.recorded = s.recorded || p.audit != nil || p.dryDeny != nil || p.dryAllow != nil
		s.headers = s.headers || p.headers
	}
}

func (r *compiledRule) looksAtHeaders() bool {
	return slices.ContainsFunc(r.when, func(c conditionMatch) bool { return c.kind == conditionHeader || c.kind == conditionClaim })
}
