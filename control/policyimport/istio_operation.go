package policyimport

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// operation translates one operation of a rule.
func (s *istioScope) operation(o object) ([]alternative[policy.Operation], outcome) {
	var op policy.Operation
	var when []policy.Condition
	fits := true
	list := func(field string, negative bool, convert func(*policy.Node) ([]string, error)) []string {
		out, result := constrain(&s.scope, constraint{field, o.get(field), negative}, convert)
		fits = fits && result != nothing
		return out
	}
	op.Hosts = list("hosts", false, s.host)
	op.Paths = list("paths", false, s.path)
	op.Ports = list("ports", false, s.port)
	op.Methods = list("methods", false, s.method)
	if ports := list("notPorts", true, s.port); ports != nil {
		when = append(when, policy.Condition{Key: "destination.port", NotValues: ports})
	}
	not := list("notMethods", true, func(n *policy.Node) ([]string, error) { return []string{n.Value}, nil })
	left, ok := s.notMethods(op.Methods, not, o.get("notMethods"))
	op.Methods, fits = left, fits && ok
	for _, field := range []string{"notHosts", "notPaths"} {
		list(field, true, func(*policy.Node) ([]string, error) {
			return nil, errors.New("there is no not-form of it here")
		})
	}
	switch {
	case !s.unknown(o, "operation"), !fits:
		return nil, nothing
	case op.Hosts == nil && op.Paths == nil && op.Ports == nil && op.Methods == nil && when == nil:
		if !s.denies() {
			s.noteAt(o.place(), "an operation without a field: left out")
			return nil, nothing
		}
		return nil, anything
	case op.Hosts == nil && op.Paths == nil && op.Ports == nil && op.Methods == nil:
		return []alternative[policy.Operation]{{nil, when}}, said
	case s.denies():
		return []alternative[policy.Operation]{{&op, when}}, said
	}
	return withGRPC(op, when), said
}

// notMethods takes methods away from those that match. Without any, it takes them from the standard ones.
func (s *istioScope) notMethods(methods, not []string, at *policy.Node) (left []string, ok bool) {
	if not == nil {
		return methods, true
	}
	if methods == nil && s.denies() {
		s.note(at, "notMethods: there is no not-form of it here; it is denied whatever the methods")
		return nil, true
	}
	if methods == nil {
		methods = standardMethods()
		s.note(at, "notMethods: there is no not-form of it here; of the others, only standard methods are allowed")
	}
	left = slices.DeleteFunc(slices.Clone(methods), func(m string) bool {
		return slices.ContainsFunc(not, func(n string) bool {
			if strings.Contains(m, "*") { // part of it may be meant: an allow loses it, a deny keeps it
				s.note(at, "notMethods: %q less %q can't be said here; %s", m, n, s.consequence(constraint{field: "methods"}))
				return !s.denies()
			}
			return matches(n, m)
		})
	})
	return left, len(left) > 0
}

// path translates a path. Ours are decoded, and a brace is a template.
func (s *istioScope) path(n *policy.Node) ([]string, error) {
	v := n.Value
	if strings.ContainsAny(v, "{}") {
		var err error
		if v, err = template(v); err != nil {
			return nil, err
		}
	}
	return []string{v}, s.validOperation(policy.Operation{Paths: []string{v}})
}

// template translates Envoy's {*}, one segment, and {**} at the end, whatever follows.
func template(path string) (string, error) {
	segs := strings.Split(path, "/")
	for i, seg := range segs {
		switch {
		case seg == "{*}":
			segs[i] = fmt.Sprintf("{p%d}", i)
		case seg == "{**}" && i == len(segs)-1:
			segs[i] = "{rest...}"
		case strings.ContainsAny(seg, "{}"):
			return "", errors.New("of templates, {*} and a final {**} can be said, each as a segment")
		}
	}
	return strings.Join(segs, "/"), nil
}

func (s *istioScope) method(n *policy.Node) ([]string, error) {
	return []string{n.Value}, s.validOperation(policy.Operation{Methods: []string{n.Value}})
}

// host translates a host. Here a request's has no port: a value with one matches nothing of it.
func (s *istioScope) host(n *policy.Node) ([]string, error) {
	v := strings.ToLower(n.Value)
	if name, _, ok := strings.Cut(v, ":"); ok && !strings.HasPrefix(v, "[") {
		if !s.denies() {
			return nil, errors.New("hosts have no port here")
		}
		v = name
	}
	return []string{v}, s.validOperation(policy.Operation{Hosts: []string{v}})
}

func (s *istioScope) port(n *policy.Node) ([]string, error) {
	name, ok := s.cfg.Ports[n.Value]
	if !ok {
		return nil, errors.New("ports have names here, and none was given for this number")
	}
	return []string{name}, s.validOperation(policy.Operation{Ports: []string{name}})
}

func (s *scope) validOperation(op policy.Operation) error {
	return s.valid(policy.Rule{To: []policy.Operation{op}})
}
