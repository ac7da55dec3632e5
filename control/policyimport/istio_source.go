package policyimport

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// extraSource is what the conditions of a rule say about its callers.
type extraSource struct {
	principals, notPrincipals, namespaces, notNamespaces []*policy.Node // lists
}

// source translates one source of a rule; n is nil when the rule has none.
func (s *istioScope) source(o object, extra extraSource) ([]alternative[policy.Source], [][]policy.Condition, outcome) {
	var in [][]ident
	var not []ident
	fits := true
	positive := func(field string, list *policy.Node, convert func(string, bool) (ident, error)) {
		ids, out := constrain(&s.scope, constraint{field: field, list: list}, s.idents(convert, false))
		if out == said {
			in = append(in, ids)
		}
		fits = fits && out != nothing
	}
	negative := func(field string, list *policy.Node, convert func(string, bool) (ident, error)) {
		ids, out := constrain(&s.scope, constraint{field: field, list: list, negative: true}, s.idents(convert, true))
		not = append(not, ids...)
		fits = fits && out != nothing
	}
	for _, l := range append(slices.Clone(extra.principals), o.get("principals")) {
		positive("principals", l, s.principal)
	}
	for _, l := range append(slices.Clone(extra.notPrincipals), o.get("notPrincipals")) {
		negative("notPrincipals", l, s.principal)
	}
	for _, l := range append(slices.Clone(extra.namespaces), o.get("namespaces")) {
		positive("namespaces", l, s.anyNamespace)
	}
	for _, l := range append(slices.Clone(extra.notNamespaces), o.get("notNamespaces")) {
		negative("notNamespaces", l, s.anyNamespace)
	}
	positive("serviceAccounts", o.get("serviceAccounts"), s.serviceAccount)
	negative("notServiceAccounts", o.get("notServiceAccounts"), s.serviceAccount)

	ips, out := constrain(&s.scope, constraint{field: "ipBlocks", list: o.get("ipBlocks")}, s.address)
	fits = fits && out != nothing
	notIPs, out := constrain(&s.scope, constraint{field: "notIpBlocks", list: o.get("notIpBlocks"), negative: true}, s.address)
	fits = fits && out != nothing
	for _, field := range []string{"remoteIpBlocks", "notRemoteIpBlocks"} {
		_, out := constrain(&s.scope, constraint{field, o.get(field), strings.HasPrefix(field, "not")}, func(*policy.Node) ([]string, error) {
			return nil, errors.New("an address that a header claims is not believed here")
		})
		fits = fits && out != nothing
	}
	whens, out := s.requestPrincipals(o.get("requestPrincipals"), o.get("notRequestPrincipals"))
	fits = fits && out != nothing && s.unknown(o, "source")
	if !fits {
		return nil, nil, nothing
	}
	ids, ok := s.combine(o, in)
	if !ok {
		return nil, nil, nothing
	}
	alts, out := s.sources(o, ids, not, policy.Source{IPs: ips, NotIPs: notIPs})
	return alts, whens, out
}

func (s *istioScope) idents(convert func(string, bool) (ident, error), negative bool) func(*policy.Node) ([]ident, error) {
	return func(n *policy.Node) ([]ident, error) {
		id, err := convert(n.Value, negative)
		if e, ok := errors.AsType[*policy.ParseError](err); ok {
			s.fatal = e
		}
		return []ident{id}, err
	}
}

func (s *istioScope) anyNamespace(v string, negative bool) (ident, error) {
	if s.wide(negative) {
		return s.namespace(v, "*")
	}
	return s.namespace(v, "")
}

// serviceAccount translates "ACCOUNT" and "NAMESPACE/ACCOUNT".
func (s *istioScope) serviceAccount(v string, negative bool) (ident, error) {
	ns, account, ok := strings.Cut(v, "/")
	if !ok {
		ns, account = s.namespaceName, v
	}
	if strings.Contains(v, "*") {
		return ident{}, errors.New("a pattern of accounts is not accepted")
	}
	td := ""
	if s.wide(negative) {
		td = "*"
	}
	return s.caller(td, "ns/"+ns+"/sa/"+account)
}

// combine makes one list of the lists that a caller must all be in. No list is any caller.
func (s *istioScope) combine(o object, in [][]ident) (ids []ident, ok bool) {
	switch len(in) {
	case 0:
		return nil, true
	case 1:
		return in[0], true
	}
	ids, ok = intersect(in)
	switch {
	case ok:
		return ids, len(ids) > 0
	case s.denies():
		s.noteAt(o.place(), "the callers that are in several lists at once: that can't be said here; those in the first are denied")
		return in[0], true
	}
	s.noteAt(o.place(), "the callers that are in several lists at once: that can't be said here; left out")
	return nil, false
}

// sources writes callers, less others, as entries of a rule. An allow is for the mesh's own trust domain, unless
// the source names another.
func (s *istioScope) sources(o object, ids, not []ident, rest policy.Source) ([]alternative[policy.Source], outcome) {
	everybody := len(ids) == 0
	if everybody && !s.denies() {
		ids = []ident{{service: "*"}}
	} else if everybody {
		ids = []ident{{trustDomain: "*"}}
	}
	var domains []string
	services := make(map[string][]string)
	whole := make(map[string]bool)
	for _, id := range ids {
		if !slices.Contains(domains, id.trustDomain) {
			domains = append(domains, id.trustDomain)
		}
		whole[id.trustDomain] = whole[id.trustDomain] || id.service == ""
		services[id.trustDomain] = append(services[id.trustDomain], id.service)
	}
	var out []alternative[policy.Source]
domains:
	for _, td := range domains {
		e := rest
		if !whole[td] {
			e.Services = services[td]
		}
		if td != "" && (td != "*" || !whole[td]) {
			e.TrustDomains = []string{td}
		}
		for _, id := range not {
			switch {
			case id.trustDomain == "*" && id.service == "": // all of them
				return nil, nothing
			case td == "*" && !whole[td], id.trustDomain != td && id.trustDomain != "*" && (td != "*" || id.trustDomain != ""):
				if s.denies() && (td == "*" || id.trustDomain == td) {
					s.noteAt(o.place(), "%s is denied too: leaving it out can't be said here", strings.Trim(id.trustDomain+"/"+id.service, "/"))
				}
			case id.service == "": // of this trust domain
				continue domains
			default:
				e.NotServices = append(e.NotServices, id.service)
			}
		}
		if e.Services == nil && e.TrustDomains == nil && e.NotServices == nil && e.IPs == nil && e.NotIPs == nil {
			return nil, anything
		}
		out = append(out, alternative[policy.Source]{entry: &e})
	}
	if len(out) == 0 {
		return nil, nothing
	}
	return out, said
}

// address translates an address or a prefix, whose host bits do not count.
func (s *istioScope) address(n *policy.Node) ([]string, error) {
	v := n.Value
	if p, err := netip.ParsePrefix(v); err == nil && p != p.Masked() {
		v = p.Masked().String()
	}
	return []string{v}, s.valid(policy.Rule{From: []policy.Source{{IPs: []string{v}}}})
}
