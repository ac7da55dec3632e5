package policyimport

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/intramesh/mesh/policy"
)

const (
	labelNamespace = "namespace"
	labelAccount   = "serviceaccount"
	pathTemplate   = "ns/{" + labelNamespace + "}/sa/{" + labelAccount + "}"
)

// expand fills in a template.
func expand(template string, get func(name string) (string, bool)) (string, error) {
	var b strings.Builder
	for rest := template; rest != ""; {
		text, after, ok := strings.Cut(rest, "{")
		b.WriteString(text)
		if !ok {
			break
		}
		name, tail, ok := strings.Cut(after, "}")
		if !ok {
			return "", fmt.Errorf("template %q: a { is not closed", template)
		}
		value, ok := get(name)
		if !ok {
			return "", fmt.Errorf("%q has no value for the template %q", name, template)
		}
		b.WriteString(value)
		rest = tail
	}
	return b.String(), nil
}

// An ident is a set of callers: those of a trust domain, or of all, whose service matches.
type ident struct {
	trustDomain string // "" is the mesh's own, "*" is any
	service     string // "" is any
}

var errSuffix = errors.New("a suffix may match names that anybody chooses")

// wide reports whether a value must become one that matches at least as much: the other way it must not match more.
func (s *istioScope) wide(negative bool) bool { return s.denies() != negative }

// principal translates "TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT", which may have a "*" at an end.
func (s *istioScope) principal(v string, negative bool) (ident, error) {
	switch {
	case v == "*" && s.wide(negative):
		return ident{trustDomain: "*"}, nil
	case v == "*":
		return ident{service: "*"}, nil
	case strings.HasPrefix(v, "*"):
		path, ok := strings.CutPrefix(v, "*/")
		if !ok || s.wide(negative) || strings.Contains(path, "*") {
			return ident{}, errSuffix
		}
		return s.caller("", path) // of the mesh's own trust domain only
	}
	td, path, ok := strings.Cut(v, "/")
	if !ok || strings.Contains(td, "*") {
		return ident{}, errors.New("wants a trust domain and a path")
	}
	if td == s.cfg.TrustDomain {
		td = ""
	}
	if path == "*" && td != "" {
		return ident{trustDomain: td}, s.valid(policy.Rule{From: []policy.Source{{TrustDomains: []string{td}}}})
	}
	return s.caller(td, path)
}

// caller gives a SPIFFE path, or a prefix of paths, its name here.
func (s *istioScope) caller(td, path string) (ident, error) {
	name := path
	if s.cfg.Caller != pathTemplate && path != "*" {
		ns, account, ok := cutPath(path)
		switch {
		case !ok:
			return ident{}, errors.New("is not of the form ns/NAMESPACE/sa/ACCOUNT, and callers have other names here")
		case account == "*":
			return s.namespace(ns, td)
		}
		var err error
		if name, err = s.callerName(ns, account); err != nil {
			return ident{}, err
		}
	}
	id := ident{td, name}
	return id, s.valid(policy.Rule{From: []policy.Source{id.source()}})
}

func (s *istioScope) callerName(ns, account string) (string, error) {
	name, err := expand(s.cfg.Caller, func(key string) (string, bool) {
		switch key {
		case labelNamespace:
			return ns, true
		case labelAccount:
			return account, true
		}
		return "", false
	})
	if err != nil {
		return "", err
	}
	// Two accounts of one name would have each other's rights.
	who := ns + "/" + account
	if first, ok := s.callers[name]; ok && first != who && account != "*" {
		return "", refuse(Place{File: s.file}, "the callers %s and %s both are %q here: choose another template for callers, with {%s} in it", first, who, name, labelNamespace)
	}
	if account != "*" {
		s.callers[name] = who
	}
	return name, nil
}

func cutPath(path string) (ns, account string, ok bool) {
	parts := strings.Split(path, "/")
	switch {
	case len(parts) == 3 && parts[0] == "ns" && parts[2] == "*": // ns/NAMESPACE/*
		return parts[1], "*", true
	case len(parts) == 4 && parts[0] == "ns" && parts[2] == "sa":
		return parts[1], parts[3], !strings.Contains(parts[1], "*") && (parts[3] == "*" || !strings.Contains(parts[3], "*"))
	}
	return "", "", false
}

// namespace translates all callers of a namespace, those of every trust domain when it is "*".
func (s *istioScope) namespace(ns, td string) (ident, error) {
	switch {
	case ns == "*" && td == "*":
		return ident{trustDomain: "*"}, nil
	case ns == "*" && s.cfg.Caller == pathTemplate:
		return ident{td, "ns/*"}, nil
	case ns == "*":
		return ident{td, "*"}, nil
	}
	if strings.Contains(ns, "*") {
		return ident{}, errors.New("a pattern of namespaces does not end at a \"/\" here")
	}
	name := "ns/" + ns + "/*"
	if s.cfg.Caller != pathTemplate {
		var err error
		if name, err = s.callerName(ns, "*"); err != nil {
			return ident{}, err
		}
		if !strings.Contains(s.cfg.Caller, "{"+labelNamespace+"}") || !strings.HasSuffix(name, "/*") {
			return ident{}, fmt.Errorf("the names of callers here (%s) do not begin with their namespace", s.cfg.Caller)
		}
	}
	id := ident{td, name}
	return id, s.valid(policy.Rule{From: []policy.Source{id.source()}})
}

// source is what a rule says for it.
func (id ident) source() policy.Source {
	var s policy.Source
	if id.trustDomain != "" {
		s.TrustDomains = []string{id.trustDomain}
	}
	if id.service != "" {
		s.Services = []string{id.service}
	}
	return s
}

// contains reports whether the exact b is in a.
func (id ident) contains(b ident) bool {
	return (id.trustDomain == "*" || id.trustDomain == b.trustDomain) && (id.service == "" || matches(id.service, b.service))
}

func (id ident) exact() bool {
	return id.trustDomain != "*" && id.service != "" && !strings.Contains(id.service, "*")
}

// intersect returns the callers that are in all of the lists, as far as that can be said.
func intersect(lists [][]ident) ([]ident, bool) {
	i := slices.IndexFunc(lists, func(l []ident) bool {
		return !slices.ContainsFunc(l, func(id ident) bool { return !id.exact() })
	})
	if i < 0 {
		return nil, false
	}
	return slices.DeleteFunc(slices.Clone(lists[i]), func(id ident) bool {
		return slices.ContainsFunc(lists, func(l []ident) bool {
			return !slices.ContainsFunc(l, func(in ident) bool { return in.contains(id) })
		})
	}), true
}
