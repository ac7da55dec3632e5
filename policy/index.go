package policy

import "strings"

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

// An index finds the rules that a source can match without looking at the others. A nil
// index has none.
type index struct {
	exact  map[string]*bucket // by the source's service
	prefix map[string]*bucket // "checkout/" → checkout/*
	any    bucket             // for every source
	rules  []*compiledRule    // all of them, for a source that is not known
}

func (ix *index) add(r *compiledRule) {
	ix.rules = append(ix.rules, r)
	if len(r.from) == 0 {
		ix.any.all = append(ix.any.all, clause{r, nil})
	}
	for i := range r.from {
		ix.addSource(r, &r.from[i])
	}
}

func (ix *index) addSource(r *compiledRule, s *sourceMatch) {
	named := false
	for i := range s.services {
		named = named || s.services[i].shape == shapeAny
	}
	if s.services == nil || named {
		ix.any.all = append(ix.any.all, clause{r, s})
		return
	}
	// The name is decided by the lookup; what is left of the source is not.
	c := clause{r, &sourceMatch{services: values{{shape: shapeAny}}, own: s.own, more: s.more}}
	for _, p := range s.services {
		switch p.shape {
		case shapeSet:
			for name := range p.more.set {
				put(&ix.exact, name, c)
			}
		case shapePrefix:
			put(&ix.prefix, p.text, c)
		default:
			put(&ix.exact, p.text, c)
		}
	}
}

func put(m *map[string]*bucket, key string, c clause) {
	if *m == nil {
		*m = make(map[string]*bucket)
	}
	if (*m)[key] == nil {
		(*m)[key] = &bucket{}
	}
	(*m)[key].all = append((*m)[key].all, c)
}

// done ends the adding.
func (ix *index) done() {
	for _, m := range []map[string]*bucket{ix.exact, ix.prefix} {
		for _, b := range m {
			b.done()
		}
	}
	ix.any.done()
}

// find returns a rule that matches, nil for none: of several, one whose source is written
// most exactly.
func (ix *index) find(q *query) *compiledRule {
	if ix == nil {
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
	var few [4]*bucket
	for _, b := range ix.buckets(q.service, few[:0]) {
		if r := b.find(q); r != nil {
			return r
		}
	}
	return nil
}

// buckets appends those of a source, the most exact first.
func (ix *index) buckets(service string, to []*bucket) []*bucket {
	if ix == nil {
		return to
	}
	if b := ix.exact[service]; b != nil {
		to = append(to, b)
	}
	for name := service; ix.prefix != nil; {
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		if b := ix.prefix[name[:i+1]]; b != nil {
			to = append(to, b)
		}
		name = name[:i]
	}
	if len(ix.any.all) > 0 {
		to = append(to, &ix.any)
	}
	return to
}

// collect appends every rule that matches, in the order of the documents.
func (ix *index) collect(q *query, to []Match) []Match {
	if ix == nil {
		return to
	}
	for _, r := range ix.rules {
		if r.match(q) == matched {
			to = append(to, Match{r.policy, r.index, r.doc.action, r.doc.mode})
		}
	}
	return to
}

// A bucket holds what is left to look at for one source. A large one is indexed once more, by
// the path of an HTTP request.
type bucket struct {
	all []clause
	// byPath holds the clauses all of whose operations name exact paths, pathless the
	// others. They are only good where the path is known.
	byPath   map[string][]clause
	pathless []clause
}

// largeBucket is from where on a second lookup is faster than looking at each clause.
const largeBucket = 16

func (b *bucket) done() {
	if len(b.all) < largeBucket {
		return
	}
	for _, c := range b.all {
		paths := exactPaths(c.rule)
		if paths == nil {
			b.pathless = append(b.pathless, c)
			continue
		}
		if b.byPath == nil {
			b.byPath = make(map[string][]clause)
		}
		for p := range paths {
			b.byPath[p] = append(b.byPath[p], c)
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

func (b *bucket) find(q *query) *compiledRule {
	if b.byPath == nil {
		return first(b.all, q)
	}
	path, known := q.value(fieldPaths)
	if !known {
		return first(b.all, q)
	}
	if r := first(b.byPath[path], q); r != nil {
		return r
	}
	return first(b.pathless, q)
}

func first(list []clause, q *query) *compiledRule {
	for i := range list {
		if list[i].match(q) == matched {
			return list[i].rule
		}
	}
	return nil
}
