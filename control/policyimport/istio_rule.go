package policyimport

import (
	"slices"

	"github.com/intramesh/mesh/policy"
)

func (s *istioScope) rule(o object) []policy.Rule {
	from, to, conditions := o.list("from"), o.list("to"), o.list("when")
	if !s.whole(o, "rule") {
		return nil
	}
	when, whens, extra, fits := s.conditions(conditions)
	froms, fromWhens, ok := s.froms(from, extra)
	tos, ok2 := s.tos(to)
	if !fits || !ok || !ok2 {
		s.noteAt(o.place(), "the rule is left out")
		return nil
	}
	var out []policy.Rule
	for i := range froms {
		ways := product(whens, fromWhens[i])
		if len(ways) == 0 {
			ways = [][]policy.Condition{nil}
		}
		for j := range ways {
			ways[j] = slices.Concat(when, ways[j])
		}
		out = append(out, assemble(froms[i], tos, ways)...)
	}
	return out
}

// whole is unknown for what has alternatives in it: a field that is not known may be one more, so a deny can't be said.
func (s *istioScope) whole(o object, what string) bool {
	if o.isObject() && len(o.rest()) == 0 {
		return true
	}
	s.missed(policy.Spec{Action: s.action}, o.place(), "%s: it has fields that are not known, or is no object; left out", what)
	return false
}

// froms translates the sources of a rule: groups of alternatives, each with the ways to fulfil its conditions.
func (s *istioScope) froms(list []*policy.Node, extra extraSource) (groups [][]alternative[policy.Source], whens [][][]policy.Condition, ok bool) {
	var sources []object
	for _, n := range list {
		o := newObject(s.file, n, false)
		source := o.object("source")
		if !s.whole(o, "from") {
			continue
		}
		if !source.isObject() || len(source.node.Members) == 0 {
			s.noteAt(o.place(), "a source without a field; %s", s.consequence(constraint{field: "source"}))
			if !s.denies() {
				continue
			}
		}
		sources = append(sources, source)
	}
	if len(list) == 0 {
		sources = []object{newObject(s.file, nil, false)}
	}
	var plain []alternative[policy.Source] // those without conditions of their own
	for _, source := range sources {
		alts, ways, out := s.source(source, extra)
		switch {
		case out == nothing:
		case len(ways) > 0:
			groups, whens = append(groups, alts), append(whens, ways)
		case out == anything:
			return [][]alternative[policy.Source]{nil}, [][][]policy.Condition{nil}, true
		default:
			plain = append(plain, alts...)
		}
	}
	if len(plain) > 0 {
		groups, whens = append([][]alternative[policy.Source]{plain}, groups...), append([][][]policy.Condition{nil}, whens...)
	}
	return groups, whens, len(groups) > 0
}

// tos translates the operations of a rule.
func (s *istioScope) tos(list []*policy.Node) (alts []alternative[policy.Operation], ok bool) {
	if len(list) == 0 {
		return nil, true
	}
	for _, n := range list {
		o := newObject(s.file, n, false)
		op := o.object("operation")
		if !s.whole(o, "to") {
			continue
		}
		more, out := s.operation(op)
		if out == anything {
			return nil, true
		}
		alts = append(alts, more...)
	}
	return alts, len(alts) > 0
}
