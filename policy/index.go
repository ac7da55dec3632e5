package policy

import "strings"

// A scope holds the rules whose destination is written in one way ("payments", "billing/*"
// or "*"). Parent is the next wider one that holds anything.
type scope struct {
	parent *scope
	// deny and allow are enforced. The other three are recorded only.
	deny, allow, audit, dryDeny, dryAllow index
	// recorded says that a rule here or in a parent is recorded only.
	recorded bool
	// allowDocs counts the allow documents and dryDocs those in dry run, for the reason
	// of a denial.
	allowDocs, dryDocs int
}

// index returns where the rules of a document go.
func (s *scope) index(a Action, m Mode) *index {
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

func (s *scope) add(doc *compiledDoc) {
	if doc.action == ActionAllow && doc.mode == ModeDryRun {
		s.dryDocs++
	} else if doc.action == ActionAllow {
		s.allowDocs++
	}
	ix := s.index(doc.action, doc.mode)
	for _, r := range doc.rules {
		ix.add(r)
	}
}

// A clause is a rule narrowed to one of its sources, nil for any.
type clause struct {
	rule   *compiledRule
	source *sourceMatch
}

func (c *clause) match(q *query) field {
	if c.source != nil {
		if f := c.source.match(q); f != matched {
			return f
		}
	}
	return c.rule.matchRequest(q)
}

// An index finds the rules that a source can match without looking at the others.
type index struct {
	exact  map[string][]clause // by the source's service
	prefix map[string][]clause // "checkout/" → checkout/*
	any    []clause            // for every source
	rules  []*compiledRule     // all of them, for a source that is not known
}

func (ix *index) add(r *compiledRule) {
	ix.rules = append(ix.rules, r)
	if len(r.from) == 0 {
		ix.any = append(ix.any, clause{r, nil})
	}
	for _, s := range r.from {
		if s.services == nil || s.services.any {
			ix.any = append(ix.any, clause{r, s})
			continue
		}
		// The name is decided by the lookup; what is left of the source is not.
		rest := *s
		rest.services = &values{any: true}
		c := clause{r, &rest}
		for _, name := range s.services.exact {
			if ix.exact == nil {
				ix.exact = make(map[string][]clause)
			}
			ix.exact[name] = append(ix.exact[name], c)
		}
		for _, p := range s.services.prefixes {
			if ix.prefix == nil {
				ix.prefix = make(map[string][]clause)
			}
			ix.prefix[p] = append(ix.prefix[p], c)
		}
	}
}

// find returns a rule that matches, nil for none: of several the one whose source is most
// exact, then the first of the documents.
func (ix *index) find(q *query) *compiledRule {
	if len(ix.rules) == 0 {
		return nil
	}
	if q.service == "" {
		for _, r := range ix.rules {
			if r.match(q) == matched {
				return r
			}
		}
		return nil
	}
	if r := first(ix.exact[q.service], q); r != nil {
		return r
	}
	if ix.prefix != nil {
		for name := q.service; ; {
			i := strings.LastIndexByte(name, '/')
			if i < 0 {
				break
			}
			if r := first(ix.prefix[name[:i+1]], q); r != nil {
				return r
			}
			name = name[:i]
		}
	}
	return first(ix.any, q)
}

func first(list []clause, q *query) *compiledRule {
	for i := range list {
		if list[i].match(q) == matched {
			return list[i].rule
		}
	}
	return nil
}

// collect appends every rule that matches, in the order of the documents.
func (ix *index) collect(q *query, to []Match) []Match {
	for _, r := range ix.rules {
		if r.match(q) == matched {
			to = append(to, Match{r.doc.name, r.index, r.doc.action, r.doc.mode})
		}
	}
	return to
}
