package policyimport

import (
	"reflect"
	"slices"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// tokenRule is a jwtRule of a RequestAuthentication, and whom it is for there. Here a TokenIssuer is for all services.
type tokenRule struct {
	spec     policy.TokenIssuerSpec
	name     string // of the object
	scope    *istioScope
	at       Place
	services []string
	bad      bool // it can't be said; noted already
}

// authentication reads a RequestAuthentication, of
// https://istio.io/latest/docs/reference/config/security/request_authentication/.
func (s *istioScope) authentication(meta, spec object, at Place) {
	s.action = policy.ActionAudit // neither does it close services, nor may it be for more than it says
	rules := spec.list("jwtRules")
	services, err := s.targets(spec)
	rest := spec.rest()
	for _, n := range rules {
		r := s.tokenRule(newObject(s.file, n, false))
		r.name, r.services = meta.text("name"), services
		switch {
		case r.bad:
		case err != nil:
			r.leftOut("%v; a TokenIssuer is for all services", err)
		case len(rest) > 0:
			r.leftOut("%s is not known", rest[0].Key)
		}
		s.tokens = append(s.tokens, r)
	}
	if len(rules) == 0 {
		s.noteAt(at, "RequestAuthentication without jwtRules: nothing to carry over")
	}
}

func (r *tokenRule) leftOut(format string, args ...any) {
	r.bad = true
	r.scope.noteAt(r.at, "jwtRules: "+format+"; no TokenIssuer is written, so that claims of this issuer's tokens are unavailable", args...)
}

func (s *istioScope) tokenRule(o object) *tokenRule {
	r := &tokenRule{scope: s, at: o.place()}
	r.spec = policy.TokenIssuerSpec{Issuer: o.text("issuer"), JWKSURL: o.text("jwksUri"), JWKS: o.text("jwks")}
	for _, n := range o.list("audiences") {
		r.spec.Audiences = append(r.spec.Audiences, n.Value)
	}
	for _, field := range []string{"outputPayloadToHeader", "outputClaimToHeaders"} {
		s.outputs(o, field)
	}
	for _, field := range []string{"fromParams", "fromCookies"} {
		if n := o.get(field); n != nil {
			s.note(n, "%s: a token is only looked for in a header here", field)
		}
	}
	if n := o.get("timeout"); n != nil {
		s.note(n, "timeout: fetching keys has a limit of its own here")
	}
	o.get("forwardOriginalToken") // it stays in the request in any case
	s.fromHeaders(r, o)
	switch {
	case r.bad:
	case len(r.spec.Audiences) == 0:
		r.leftOut("without audiences, tokens that %q made for others count there; name them", r.spec.Issuer)
	case r.spec.JWKS == "" && r.spec.JWKSURL == "":
		r.leftOut("there is no jwksUri, and keys are not discovered here")
	case len(o.rest()) > 0:
		r.leftOut("%s can't be said here", o.rest()[0].Key)
	default:
		if _, err := policy.Static(s.td, r.document("any")); err != nil {
			r.leftOut("%v", s.problem(err))
		}
	}
	return r
}

// fromHeaders chooses the header that the token is in: the first that can be said.
func (s *istioScope) fromHeaders(r *tokenRule, o object) {
	list := o.list("fromHeaders")
	if len(list) == 0 {
		return
	}
	found := false
	for _, n := range list {
		h := newObject(s.file, n, false)
		name, prefix := strings.ToLower(h.text("name")), h.text("prefix")
		switch {
		case found:
			s.note(n, "fromHeaders: a token is looked for in one header here, %s", r.spec.Header)
		case len(h.rest()) > 0 || prefix != "Bearer " && (prefix != "" || name == "authorization"):
			s.note(n, "fromHeaders: %s: the token can only follow \"Bearer \" here", name)
		default:
			r.spec.Header, found = name, true
		}
	}
	if !found {
		r.leftOut("none of its headers can be said")
	}
}

// outputs remembers headers that Istio makes of a token. Here nobody does, and a client could send them.
func (s *istioScope) outputs(o object, field string) {
	for _, n := range o.list(field) {
		name := n.Value
		if n.Kind == policy.NodeObject {
			name = newObject(s.file, n, false).text("header")
		}
		s.made = append(s.made, madeHeader{strings.ToLower(name), field, s, place(s.file, n)})
	}
}

type madeHeader struct {
	name, field string
	scope       *istioScope
	at          Place
}

func (r *tokenRule) document(name string) policy.Document {
	return policy.Document{
		APIVersion: policy.APIVersion, Kind: policy.KindTokenIssuer,
		Metadata:    policy.Metadata{Name: name, Labels: map[string]string{"imported-from": "istio"}},
		TokenIssuer: &r.spec,
	}
}

// tokenIssuers writes a TokenIssuer for each issuer, provided that its tokens count for nothing here that they do not count
// for there.
func (i *istio) tokenIssuers() {
	said := make(map[string]*tokenRule)
	for _, r := range i.tokens {
		first := said[r.spec.Issuer]
		switch {
		case r.bad:
		case first == nil:
			said[r.spec.Issuer] = r
		case reflect.DeepEqual(first.spec, r.spec):
			first.services = append(first.services, r.services...)
		default:
			r.scope.noteAt(r.at, "jwtRules: %v says something else about this issuer; here one thing can be said, which is that", first.at)
		}
	}
	var out []Document
	for _, r := range i.tokens {
		if said[r.spec.Issuer] != r {
			continue
		}
		if d := i.lookingAt(r.services, func(key string) bool { return strings.HasPrefix(key, "request.jwt.") }); d != "" {
			r.leftOut("its tokens would count for %s too, which is for services that it is not for", d)
			continue
		}
		name := i.im.name("istio", r.scope.namespaceName, r.name)
		out = append(out, Document{r.document(name), r.at})
		i.im.Notes = append(i.im.Notes, Note{Place: r.at, Document: name, Message: "a request with a token that does not hold is judged by the rules here, not refused for it"})
	}
	i.im.Documents = append(i.im.Documents, out...)
	for _, h := range i.made {
		if d := i.lookingAt(nil, func(key string) bool { return key == "request.header."+h.name }); d != "" {
			h.scope.widens(h.at, "%s: %s looks at the header %s, which anybody can send here; look at the claim instead", h.field, d, h.name)
		} else {
			h.scope.noteAt(h.at, "%s: nobody makes the header %s of a token here", h.field, h.name)
		}
	}
}

// lookingAt returns a document that looks at such a key, and is for other services than these.
func (i *istio) lookingAt(services []string, such func(key string) bool) string {
	for _, d := range i.im.Documents {
		if slices.ContainsFunc(services, func(s string) bool { return matches(s, d.Spec.Service) }) {
			continue
		}
		for _, r := range d.Spec.Rules {
			if slices.ContainsFunc(r.When, func(c policy.Condition) bool { return such(c.Key) }) {
				return d.Metadata.Name
			}
		}
	}
	return ""
}
