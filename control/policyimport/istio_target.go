package policyimport

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// targets returns the services that the policy is for.
func (s *istioScope) targets(spec object) ([]string, error) {
	refs := spec.list("targetRefs")
	if ref := spec.get("targetRef"); ref != nil {
		refs = append(refs, ref)
	}
	var services []string
	selector := spec.object("selector")
	switch {
	case len(refs) == 0:
		service, err := s.selected(selector)
		return []string{service}, err
	case selector.node != nil:
		return nil, errors.New("it has both selector and targetRefs")
	case strings.Count(strings.ReplaceAll(s.cfg.Service, "{"+labelNamespace+"}", ""), "{") != 1:
		return nil, fmt.Errorf("targetRefs: a name alone does not fill in the names of services here (%s)", s.cfg.Service)
	}
	for _, n := range refs {
		ref := newObject(s.file, n, false)
		name, ns := ref.text("name"), ref.text("namespace")
		if ref.text("kind") != "Service" || ref.text("group") != "" && ref.text("group") != "core" || ns != "" && ns != s.namespaceName || len(ref.rest()) > 0 {
			return nil, fmt.Errorf("targetRefs: %s %q is no service of this mesh", ref.text("kind"), name)
		}
		service, err := s.serviceName(func(string) (string, bool) { return name, true }, s.namespaceName)
		if err != nil {
			return nil, err
		}
		services = append(services, service)
	}
	return services, nil
}

// selected names what a selector selects.
func (s *istioScope) selected(selector object) (string, error) {
	everywhere := s.namespaceName == s.cfg.RootNamespace
	labels := selector.object("matchLabels")
	if rest := selector.rest(); len(rest) > 0 {
		return "", fmt.Errorf("selector.%s: this field is not known", rest[0].Key)
	}
	inNamespace := strings.Contains(s.cfg.Service, "{"+labelNamespace+"}")
	if labels.node == nil || len(labels.node.Members) == 0 {
		if s.action == policy.ActionAllow {
			s.closed[s.namespaceName] = true
		}
		if everywhere {
			return "*", nil
		}
		prefix, rest, _ := strings.Cut(s.cfg.Service, "{"+labelNamespace+"}/")
		if !inNamespace || prefix != "" && !strings.HasSuffix(prefix, "/") || strings.Contains(prefix, "{") || rest == "" {
			return "", fmt.Errorf("without a selector it is for all services of namespace %s, and names of services (%s) do not begin with their namespace", s.namespaceName, s.cfg.Service)
		}
		service := prefix + s.namespaceName + "/*"
		return service, s.validService(service)
	}
	if everywhere && inNamespace {
		return "", errors.New("a selector in the root namespace is for services of all namespaces, which can't be said here")
	}
	ns := s.namespaceName
	if everywhere {
		ns = ""
	}
	used := make(map[string]bool)
	service, err := s.serviceName(func(key string) (string, bool) {
		used[key] = true
		n := labels.get(key)
		if n == nil || strings.Contains(n.Value, "*") {
			return "", false
		}
		return n.Value, true
	}, ns)
	if err != nil {
		return "", err
	}
	for _, m := range labels.node.Members {
		if used[m.Key] {
			continue
		}
		if s.action != policy.ActionDeny {
			return "", fmt.Errorf("selector: it is for a part of %s only (%s), which can't be said here", service, m.Key)
		}
		s.noteAt(Place{s.file, m.Line, m.Column}, "selector: it is for a part of %s only (%s); denied for all of it", service, m.Key)
	}
	return service, nil
}

// serviceName fills in the template for services.
func (s *istioScope) serviceName(label func(string) (string, bool), ns string) (string, error) {
	service, err := expand(s.cfg.Service, func(key string) (string, bool) {
		if key == labelNamespace {
			return ns, ns != ""
		}
		return label(key)
	})
	if err != nil {
		return "", err
	}
	if first, ok := s.services[service]; ok && ns != "" && first != ns {
		s.fatal = refuse(Place{File: s.file}, "namespaces %s and %s both have a service that is %q here: choose another template for services, with {%s} in it", first, ns, service, labelNamespace)
	}
	if ns != "" {
		s.services[service] = ns
	}
	return service, s.validService(service)
}

// onlyDenied tells of services that are open in the source and closed here.
func (i *istio) onlyDenied() {
	for _, d := range i.denied {
		open := !i.closed[d.scope.namespaceName] && !i.closed[i.cfg.RootNamespace]
		if open && !slices.ContainsFunc(i.allowed, func(a target) bool { return matches(a.service, d.service) }) {
			d.scope.noteAt(d.at, "no ALLOW policy here is for %s: what this does not deny is allowed there, and denied here until a policy allows it", d.service)
		}
	}
}
