package policyimport

import (
	"strings"

	"github.com/intramesh/mesh/policy"
)

// IstioConfig says what things of a cluster are called here. The zero value is what [Istio] documents for each.
type IstioConfig struct {
	// TrustDomain is the source's, and becomes the mesh's own; "" means cluster.local. Callers of another are
	// let in where the source names it.
	TrustDomain string
	// RootNamespace is the one whose policies are for all; "" means istio-system.
	RootNamespace string
	// Namespace is that of policies that name none; "" means default.
	Namespace string
	// Service names the destination, from the labels that a policy selects by and its {namespace}; "" means "{app}". A
	// policy that selects by fewer or more labels does not fit: by fewer it is for services that are not named, by more
	// for a part of one.
	Service string
	// Caller names callers, from their {namespace} and {serviceaccount}; "" means
	// "ns/{namespace}/sa/{serviceaccount}", the path of the SPIFFE ID that Istio gives them.
	Caller string
	// Ports gives numbers of ports the names that they have here, "" for the default one.
	Ports map[string]string
}

// Istio translates the AuthorizationPolicies and RequestAuthentications (security.istio.io v1 and v1beta1) in YAML or JSON files. Other objects
// are noted and passed over. Its error is a [*policy.ParseError] when the files can't be read, or two services or callers
// would have the same name.
//
// The format is that of https://istio.io/latest/docs/reference/config/security/authorization-policy/ and …/conditions/.
func Istio(files []File, cfg IstioConfig) (*Result, error) {
	for _, d := range []struct {
		field  *string
		preset string
	}{
		{&cfg.TrustDomain, "cluster.local"}, {&cfg.RootNamespace, "istio-system"}, {&cfg.Namespace, "default"},
		{&cfg.Service, "{app}"}, {&cfg.Caller, pathTemplate},
	} {
		if *d.field == "" {
			*d.field = d.preset
		}
	}
	im, err := newImporter(files)
	if err != nil {
		return nil, err
	}
	i := &istio{im: im, cfg: cfg, callers: make(map[string]string), services: make(map[string]string), closed: make(map[string]bool)}
	for _, f := range files {
		list, err := nodes(f, readYAML, false)
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			if err := i.object(newObject(f.Name, n, false)); err != nil {
				return nil, err
			}
		}
	}
	i.onlyDenied()
	i.tokenIssuers()
	return im.done()
}

// istio is the state of an import.
type istio struct {
	im       *importer
	cfg      IstioConfig
	callers  map[string]string // the account behind a name
	services map[string]string // the namespace behind a name
	fatal    error
	denied   []target        // what DENY policies are for
	allowed  []target        // what ALLOW policies are for
	closed   map[string]bool // namespaces that have an ALLOW policy for all services
	tokens   []*tokenRule
	made     []madeHeader
}

type target struct {
	service string
	scope   *istioScope
	at      Place
}

// istioScope is what a policy is translated in.
type istioScope struct {
	scope
	*istio
	namespaceName string
}

func (i *istio) object(o object) error {
	if !o.isObject() {
		return refuse(o.place(), "want a Kubernetes object")
	}
	kind, version := o.text("kind"), o.text("apiVersion")
	group, _, _ := strings.Cut(version, "/")
	s := &istioScope{scope: scope{importer: i.im, file: o.file}, istio: i}
	switch {
	case kind == "List" && version == "v1":
		for _, n := range o.list("items") {
			if err := i.object(newObject(o.file, n, false)); err != nil {
				return err
			}
		}
		return nil
	case kind == "RequestAuthentication" && (version == "security.istio.io/v1" || version == "security.istio.io/v1beta1"):
		meta := s.metadata(o)
		s.authentication(meta, o.object("spec"), o.place())
		return i.fatal
	case kind != "AuthorizationPolicy" || group != "security.istio.io":
		s.noteAt(o.place(), "%s of %s: passed over; only AuthorizationPolicy and RequestAuthentication of Istio are read", orNone(kind), orNone(version))
		return nil
	case version != "security.istio.io/v1" && version != "security.istio.io/v1beta1":
		s.widens(o.place(), "version %s: only v1 and v1beta1 are known; the policy is left out", version)
		return nil
	}
	meta := s.metadata(o)
	s.policy(meta, o.object("spec"), o.place())
	return i.fatal
}

func (s *istioScope) metadata(o object) object {
	meta := o.object("metadata")
	s.namespaceName = meta.text("namespace")
	if s.namespaceName == "" {
		s.namespaceName = s.cfg.Namespace
	}
	return meta
}

func orNone(s string) string {
	if s == "" {
		return "an object without a kind or version"
	}
	return s
}

func (s *istioScope) policy(meta, spec object, at Place) {
	action := spec.text("action")
	switch action {
	case "", "ALLOW":
		s.action = policy.ActionAllow
	case "DENY":
		s.action = policy.ActionDeny
	case "AUDIT":
		s.action = policy.ActionAudit
	case "CUSTOM":
		s.lost(meta, at, "action CUSTOM: the decision of another program is not imported; write a policy.Authorizer for it")
		return
	default:
		s.lost(meta, at, "action %q is not known; the policy is left out", action)
		return
	}
	out := policy.Spec{Action: s.action}
	if dryRun(meta) {
		out.Mode = policy.ModeDryRun
	}
	services, err := s.targets(spec)
	rules := spec.list("rules")
	for _, m := range spec.rest() {
		s.missed(out, Place{s.file, m.Line, m.Column}, "%s: this field is not known; the policy is left out", m.Key)
		return
	}
	if len(rules) == 0 {
		s.noteAt(at, "%s without rules matches nothing; what no rule allows is denied here anyway", orAllow(action))
	}
	if err != nil {
		if len(rules) > 0 {
			s.missed(out, at, "%v; the policy is left out", err)
		}
		return
	}
	s.doc = s.name("istio", s.namespaceName, meta.text("name"))
	for _, service := range services {
		t := target{service, s, at}
		switch {
		case out.Mode == policy.ModeDryRun:
		case s.denies():
			s.denied = append(s.denied, t)
		case s.action == policy.ActionAllow:
			s.allowed = append(s.allowed, t)
		}
	}
	for _, n := range rules {
		out.Rules = append(out.Rules, s.rule(newObject(s.file, n, false))...)
	}
	if len(out.Rules) == 0 {
		if len(rules) > 0 {
			s.noteAt(at, "nothing is left of the policy")
		}
		return
	}
	for k, service := range services {
		name := s.doc
		if k > 0 {
			name = s.name(s.doc, service)
		}
		out.Service = service
		s.add(name, "istio", out, at)
	}
}

func orAllow(action string) string {
	if action == "" {
		return "ALLOW"
	}
	return action
}

func dryRun(meta object) bool {
	return meta.object("annotations").text("istio.io/dry-run") == "true"
}

// lost is for policies that could deny and are not translated.
func (s *istioScope) lost(meta object, at Place, format string, args ...any) {
	if dryRun(meta) {
		s.noteAt(at, format, args...)
		return
	}
	s.widens(at, format, args...)
}

// missed notes a policy that is not translated; that matters when it denies.
func (s *istioScope) missed(spec policy.Spec, at Place, format string, args ...any) {
	if spec.Action == policy.ActionDeny && spec.Mode != policy.ModeDryRun {
		s.widens(at, format, args...)
		return
	}
	s.noteAt(at, format, args...)
}

// unknown notes fields that are not known. They make an allow narrower, a deny broader: it reports whether the entry that
// has them stays.
func (s *istioScope) unknown(o object, what string) bool {
	if o.node != nil && !o.isObject() {
		s.noteAt(o.place(), "%s: this is no object; %s", what, s.consequence(constraint{field: what}))
		return s.denies()
	}
	rest := o.rest()
	for _, m := range rest {
		s.noteAt(Place{s.file, m.Line, m.Column}, "%s.%s: this field is not known; %s", what, m.Key, s.consequence(constraint{field: m.Key}))
	}
	return s.denies() || len(rest) == 0
}
