package policy

import (
	"hash/maphash"
	"slices"
	"strings"
)

// A clause is a rule narrowed to one of its sources. What a lookup has decided of the source is left out.
type clause struct {
	rule *compiledRule
	more *moreSource // what the source asks for besides names
	// own says that the source's names are of the mesh's own trust domain, named that it has some.
	own, named bool
}

func (c *clause) match(q *query) field {
	ours := !c.own || q.ours
	if c.named && !ours {
		return fieldServices
	}
	if c.more != nil {
		if f := c.more.match(q, ours); f != matched {
			return f
		}
	}
	return c.rule.matchRequest(q)
}

// An index finds the rules that a source can match without looking at the others. The zero index has none.
type index struct {
	exact  table[bucket]      // by the source's service
	any    bucket             // for every source
	prefix map[string]*bucket // "checkout/" → checkout/*
	rules  []*compiledRule    // all of them, for a source that is not known
	adding []namedClause      // what done puts into exact
}

type namedClause struct {
	name string
	clause
}

func (ix *index) add(r *compiledRule) {
	ix.rules = append(ix.rules, r)
	if len(r.from) == 0 {
		ix.any.add(clause{rule: r})
	}
	for i := range r.from {
		ix.addSource(r, &r.from[i])
	}
}

func (ix *index) addSource(r *compiledRule, s *sourceMatch) {
	c := clause{r, s.more, s.own, s.services != nil}
	anybody := s.services == nil
	for i := range s.services {
		anybody = anybody || s.services[i].shape == shapeAny
	}
	if anybody {
		ix.any.add(c)
		return
	}
	for _, p := range s.services {
		switch p.shape {
		case shapeSet:
			for name := range p.more.set {
				ix.adding = append(ix.adding, namedClause{name, c})
			}
		case shapePrefix:
			if ix.prefix == nil {
				ix.prefix = make(map[string]*bucket)
			}
			if ix.prefix[p.text] == nil {
				ix.prefix[p.text] = &bucket{}
			}
			ix.prefix[p.text].add(c)
		default:
			ix.adding = append(ix.adding, namedClause{p.text, c})
		}
	}
}

// done ends the adding.
func (ix *index) done(seed maphash.Seed) {
	if len(ix.adding) > 0 {
		ix.exact = newTable[bucket](len(ix.adding))
	}
	for i := range ix.adding {
		n := &ix.adding[i]
		ix.exact.put(hashName(seed, n.name), n.name).add(n.clause)
	}
	ix.adding = nil
	for i := range ix.exact.slots {
		ix.exact.slots[i].value.done()
	}
	for _, b := range ix.prefix {
		b.done()
	}
	ix.any.done()
}

// find returns a rule that matches, nil for none: of several, one whose source is written
// most exactly.
func (ix *index) find(q *query) *compiledRule {
	if q.service == "" {
		for _, r := range ix.rules {
			if r.match(q) == matched {
				return r
			}
		}
		return nil
	}
	if len(ix.exact.slots) > 0 {
		if b := ix.exact.get(q.serviceHash(), q.service); b != nil {
			if r := b.find(q); r != nil {
				return r
			}
		}
	}
	for name := q.service; ix.prefix != nil; {
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		if b := ix.prefix[name[:i+1]]; b != nil {
			if r := b.find(q); r != nil {
				return r
			}
		}
		name = name[:i]
	}
	return ix.any.find(q)
}

// buckets appends those that find looks at for the query's source, in its order.
func (ix *index) buckets(q *query, to []*bucket) []*bucket {
	if b := ix.exact.get(q.serviceHash(), q.service); b != nil {
		to = append(to, b)
	}
	for name := q.service; ix.prefix != nil; {
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		if b := ix.prefix[name[:i+1]]; b != nil {
			to = append(to, b)
		}
		name = name[:i]
	}
	if ix.any.first.rule != nil {
		to = append(to, &ix.any)
	}
	return to
}

// collect appends every rule that matches, in the order of the documents.
func (ix *index) collect(q *query, to []Match) []Match {
	for _, r := range ix.rules {
		if r.match(q) == matched {
			to = append(to, Match{r.policy, r.index, r.doc.action, r.doc.mode})
		}
	}
	return to
}

// A bucket holds what is left to look at for one source: mostly one clause, which is at hand.
type bucket struct {
	first clause
	more  *clauses // all of them, first included; nil for one or none
}

// clauses are several. Many are indexed once more, by the path of an HTTP request.
type clauses struct {
	all []clause
	// byPath holds the clauses all of whose operations name exact paths, pathless the
	// others. They are only good where the path is known.
	byPath   map[string][]clause
	pathless []clause
}

func (b *bucket) add(c clause) {
	switch {
	case b.first.rule == nil:
		b.first = c
	case b.more == nil:
		b.more = &clauses{all: []clause{b.first, c}}
	default:
		b.more.all = append(b.more.all, c)
	}
}

func (b *bucket) find(q *query) *compiledRule {
	switch {
	case b.more != nil:
		return b.more.find(q)
	case b.first.rule != nil && b.first.match(q) == matched:
		return b.first.rule
	}
	return nil
}

// largeBucket is from where on a second lookup is faster than looking at each clause.
const largeBucket = 16

func (b *bucket) done() {
	m := b.more
	if m == nil {
		return
	}
	m.all = slices.Clip(m.all)
	if len(m.all) < largeBucket {
		return
	}
	for _, c := range m.all {
		paths := exactPaths(c.rule)
		if paths == nil {
			m.pathless = append(m.pathless, c)
			continue
		}
		if m.byPath == nil {
			m.byPath = make(map[string][]clause)
		}
		for p := range paths {
			m.byPath[p] = append(m.byPath[p], c)
		}
	}
}

// exactPaths returns the only paths that a rule can match, nil when it can match others.
func exactPaths(r *compiledRule) map[string]struct{} {
	var out map[string]struct{}
	for _, o := range r.to {
		exact := false
		for _, t := range o {
			if t.field != fieldPaths {
				continue
			}
			exact = true
			for _, p := range t.list {
				switch p.shape {
				case shapeExact:
					out = insert(out, p.text)
				case shapeSet:
					for s := range p.more.set {
						out = insert(out, s)
					}
				default:
					return nil
				}
			}
		}
		if !exact {
			return nil
		}
	}
	return out
}

func insert(set map[string]struct{}, s string) map[string]struct{} {
	if set == nil {
		set = make(map[string]struct{})
	}
	set[s] = struct{}{}
	return set
}

func (m *clauses) find(q *query) *compiledRule {
	if m.byPath == nil {
		return first(m.all, q)
	}
	path, known := q.value(fieldPaths)
	if !known {
		return first(m.all, q)
	}
	if r := first(m.byPath[path], q); r != nil {
		return r
	}
	return first(m.pathless, q)
}

func first(list []clause, q *query) *compiledRule {
	for i := range list {
		if list[i].match(q) == matched {
			return list[i].rule
		}
	}
	return nil
}
