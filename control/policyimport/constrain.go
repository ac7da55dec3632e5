package policyimport

import (
	"fmt"

	"github.com/intramesh/mesh/policy"
)

// scope is what a piece of the source is translated for: notes go to it, and its action tells which way to err.
type scope struct {
	*importer
	file   string
	doc    string // the document's name
	action policy.Action
}

func (s *scope) denies() bool { return s.action == policy.ActionDeny }

func (s *scope) note(n *policy.Node, format string, args ...any) {
	s.noteAt(place(s.file, n), format, args...)
}

func (s *scope) noteAt(p Place, format string, args ...any) {
	s.Notes = append(s.Notes, Note{Place: p, Document: s.doc, Message: fmt.Sprintf(format, args...)})
}

// widens notes what must not get lost and is.
func (s *scope) widens(p Place, format string, args ...any) {
	s.Notes = append(s.Notes, Note{Place: p, Document: s.doc, Message: fmt.Sprintf(format, args...), Widens: true})
}

// outcome is what became of one constraint of the source.
type outcome uint8

const (
	said     outcome = iota // the values say it
	anything                // it does not constrain
	nothing                 // nothing fulfils it, so what it is part of goes
)

// A constraint is a list of values of the source, one of which must match; or none of which may, when it
// is negative.
type constraint struct {
	field    string
	list     *policy.Node
	negative bool
}

// constrain translates the values one by one. Those without a counterpart make an allow narrower and a deny
// broader.
func constrain[T any](s *scope, c constraint, convert func(n *policy.Node) ([]T, error)) ([]T, outcome) {
	if c.list == nil || c.list.Kind == policy.NodeList && len(c.list.Items) == 0 {
		return nil, anything
	}
	items := c.list.Items
	if c.list.Kind != policy.NodeList {
		items = []*policy.Node{c.list}
	}
	var out []T
	lost := false
	for _, n := range items {
		var list []T
		err := fmt.Errorf("is no text")
		if isText(n) {
			list, err = convert(n)
		}
		if err != nil {
			s.note(n, "%s %q: %v; %s", c.field, n.Value, err, s.consequence(c))
			lost = true
			continue
		}
		out = append(out, list...)
	}
	switch {
	case lost && s.denies() != c.negative: // broader: no constraint; narrower: no match
		if s.denies() {
			return nil, anything
		}
		return nil, nothing
	case lost && s.denies() && len(out) == 0:
		return nil, anything
	case len(out) == 0 && c.negative:
		return nil, anything
	case len(out) == 0:
		return nil, nothing
	}
	return out, said
}

func (s *scope) consequence(c constraint) string {
	switch {
	case s.denies() && c.negative:
		return "it is denied too"
	case s.denies():
		return "it is denied whatever the " + c.field
	case c.negative:
		return "what has this condition is left out"
	}
	return "left out"
}
