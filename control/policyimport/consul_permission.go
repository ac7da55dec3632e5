package policyimport

import (
	"errors"
	"slices"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// permission translates one permission. What can't be said exactly has no operations, and a note.
func (d *destination) permission(o object) permission {
	p := permission{at: o.place(), allow: o.text("action") == "allow"}
	s := d.scope
	s.action = policy.ActionDeny
	if p.allow {
		s.action = policy.ActionAllow
	}
	to, err := s.http(o)
	if err != nil {
		s.noteAt(p.at, "permission: %v; %s", err, map[bool]string{
			true: "left out", false: "it denies something: the permissions after it are left out",
		}[p.allow])
		return p
	}
	p.to = to
	return p
}

func (s *scope) http(o object) ([]alternative[policy.Operation], error) {
	h := o.object("http")
	if a := o.text("action"); a != "allow" && a != "deny" {
		return nil, errors.New("its action is neither allow nor deny")
	}
	if rest := o.rest(); len(rest) > 0 {
		return nil, errors.New(rest[0].Key + " can't be said here")
	}
	if !h.isObject() {
		return nil, errors.New("it has no HTTP")
	}
	var op policy.Operation
	for _, path := range []struct{ field, star string }{{"pathExact", ""}, {"pathPrefix", wildcard}} {
		if n := h.get(path.field); n != nil && n.Value != "" {
			if strings.ContainsAny(n.Value, "*{}") {
				return nil, errors.New("the path has a character that means something else here")
			}
			op.Paths = append(op.Paths, n.Value+path.star)
		}
	}
	for _, n := range h.list("methods") {
		op.Methods = append(op.Methods, strings.ToUpper(n.Value))
		if strings.Contains(n.Value, wildcard) {
			return nil, errors.New("the method is a pattern")
		}
	}
	var when []policy.Condition
	for _, n := range h.list("header") {
		c, err := s.header(newObject(s.file, n, true))
		if err != nil {
			return nil, err
		}
		when = append(when, c)
	}
	switch rest := h.rest(); {
	case len(op.Paths) > 1:
		return nil, errors.New("it has more than one path")
	case len(rest) > 0:
		return nil, errors.New(rest[0].Key + " can't be said here")
	case op.Paths == nil && op.Methods == nil && when == nil:
		return nil, errors.New("it is empty")
	}
	// A condition on a header alone would be for connections too, and match there in a deny: say that it is HTTP.
	rule := policy.Rule{When: when}
	if op.Paths == nil && op.Methods == nil {
		op.Paths = []string{"/*"}
	}
	rule.To = []policy.Operation{op}
	if err := s.valid(rule); err != nil {
		return nil, err
	}
	if s.denies() {
		return []alternative[policy.Operation]{{&op, when}}, nil
	}
	return withGRPC(op, when), nil
}

// header translates one header match; none of Consul's has a pattern in it.
func (s *scope) header(o object) (policy.Condition, error) {
	c := policy.Condition{Key: "request.header." + strings.ToLower(o.text("name"))}
	var value string
	n := 0
	for _, m := range []struct{ field, before, after string }{
		{"exact", "", ""}, {"prefix", "", wildcard}, {"suffix", wildcard, ""},
	} {
		v := o.text(m.field)
		if v == "" {
			continue
		}
		if strings.Contains(v, wildcard) {
			return c, errors.New("the value of a header has a *, which means something else here")
		}
		value, n = m.before+v+m.after, n+1
	}
	if o.text("present") == "true" {
		value, n = wildcard, n+1
	}
	invert := o.text("invert") == "true"
	if ignore := o.text("ignoreCase"); ignore != "" && ignore != "false" {
		return c, errors.New("the value of a header without regard to case can't be said here")
	}
	if rest := o.rest(); len(rest) > 0 || n != 1 {
		what := "the header"
		if len(rest) > 0 {
			what = "of a header, " + rest[0].Key
		}
		return c, errors.New(what + " can't be said here")
	}
	if _, err := s.headerValue(invert)(&policy.Node{Kind: policy.NodeString, Value: value}); err != nil {
		return c, err
	}
	if invert {
		c.NotValues = []string{value}
	} else {
		c.Values = []string{value}
	}
	return c, nil
}

// rules translates the permissions for sources: what is allowed, and what is denied before a later one allows it.
func (d *destination) rules(i *intention, from policy.Source) (allow, deny []policy.Rule) {
	last := -1
	for k, p := range i.permissions {
		if p.allow && p.to != nil {
			last = k
		}
		if !p.allow && p.to == nil {
			break
		}
	}
	sources := []alternative[policy.Source]{{entry: &from}}
	for _, p := range i.permissions[:last+1] {
		switch {
		case p.allow:
			if p.to != nil {
				allow = append(allow, assemble(sources, p.to, nil)...)
			}
		default:
			if len(allow) > 0 {
				d.noteAt(p.at, "permission: a deny wins here, over the permissions before it too")
			}
			deny = append(deny, assemble(sources, p.to, nil)...)
		}
	}
	return slices.Clip(allow), slices.Clip(deny)
}
