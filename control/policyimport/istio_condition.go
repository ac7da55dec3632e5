package policyimport

import (
	"errors"
	"strings"

	"github.com/intramesh/mesh/policy"
)

const (
	keyIssuer  = "request.jwt.iss"
	keySubject = "request.jwt.sub"
	keyPort    = "destination.port"
	keyIP      = "source.ip"
)

// conditions translates what all must hold. What they say about callers goes to extra. fits is false when nothing can
// fulfil them.
func (s *istioScope) conditions(list []*policy.Node) (when []policy.Condition, whens [][]policy.Condition, extra extraSource, fits bool) {
	fits = true
	for _, n := range list {
		o := newObject(s.file, n, false)
		key, values, not := o.text("key"), o.get("values"), o.get("notValues")
		if !o.isObject() || !s.unknown(o, "condition") {
			fits = fits && s.denies()
			continue
		}
		switch key {
		case "source.principal":
			extra.principals, extra.notPrincipals = append(extra.principals, values), append(extra.notPrincipals, not)
			continue
		case "source.namespace":
			extra.namespaces, extra.notNamespaces = append(extra.namespaces, values), append(extra.notNamespaces, not)
			continue
		case "request.auth.principal":
			more, out := s.requestPrincipals(values, not)
			fits = fits && out != nothing
			whens = product(whens, more)
			continue
		}
		c, out := s.condition(n, key, values, not)
		fits = fits && out != nothing
		if out == said {
			when = append(when, c)
		}
	}
	return when, whens, extra, fits
}

// product is the ways to fulfil both; none is no constraint.
func product(a, b [][]policy.Condition) [][]policy.Condition {
	if len(a) == 0 || len(b) == 0 {
		return append(a, b...)
	}
	var out [][]policy.Condition
	for _, x := range a {
		for _, y := range b {
			out = append(out, append(append([]policy.Condition(nil), x...), y...))
		}
	}
	return out
}

func (s *istioScope) condition(at *policy.Node, key string, values, not *policy.Node) (policy.Condition, outcome) {
	c := policy.Condition{Key: key}
	var value func(negative bool) func(n *policy.Node) ([]string, error)
	if name, ok := bracketed(key, "request.headers"); ok {
		c.Key = "request.header." + strings.ToLower(name)
		value = s.headerValue
	} else if names, ok := claim(key); ok {
		c.Key = names
		value = s.claimValue(c.Key)
		if values != nil && s.denies() {
			s.note(at, "%s: requests without a valid token are denied too", key)
		}
	} else {
		switch key {
		case keyIP:
			value = func(bool) func(*policy.Node) ([]string, error) { return s.address }
		case keyPort:
			value = func(bool) func(*policy.Node) ([]string, error) { return s.port }
		default:
			value = func(bool) func(*policy.Node) ([]string, error) {
				return func(*policy.Node) ([]string, error) { return nil, errors.New("this can't be looked at here") }
			}
		}
	}
	var in, out outcome
	c.Values, in = constrain(&s.scope, constraint{field: key, list: values}, s.checked(c.Key, value(false)))
	c.NotValues, out = constrain(&s.scope, constraint{field: key, list: not, negative: true}, s.checked(c.Key, value(true)))
	switch {
	case in == nothing || out == nothing:
		return c, nothing
	case in == anything && out == anything:
		if !s.denies() && (values == nil || len(values.Items) == 0) && (not == nil || len(not.Items) == 0) {
			s.note(at, "%s: without values; left out", key)
			return c, nothing
		}
		return c, anything
	}
	return c, said
}

// checked adds what an engine says of the condition.
func (s *istioScope) checked(key string, convert func(*policy.Node) ([]string, error)) func(*policy.Node) ([]string, error) {
	return func(n *policy.Node) ([]string, error) {
		out, err := convert(n)
		if err == nil {
			err = s.valid(policy.Rule{When: []policy.Condition{{Key: key, Values: out}}})
		}
		return out, err
	}
}

// bracketed reads "prefix[name]".
func bracketed(key, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(key, prefix+"[")
	rest, ok2 := strings.CutSuffix(rest, "]")
	return rest, ok && ok2 && rest != "" && !strings.ContainsAny(rest, "[]")
}

// claim returns our key for what Istio knows of a token. Of a claim that is a list, Istio wants one value among those asked
// for, and none among those left out.
func claim(key string) (string, bool) {
	switch key {
	case "request.auth.audiences":
		return "request.jwt.aud[]", true
	case "request.auth.presenter":
		return "request.jwt.claim.azp", true
	}
	rest, ok := strings.CutPrefix(key, "request.auth.claims")
	if !ok || !strings.HasPrefix(rest, "[") || !strings.HasSuffix(rest, "]") {
		return "", false
	}
	switch rest {
	case "[iss]", "[sub]":
		return "request.jwt." + rest[1:4], true
	case "[aud]":
		return "request.jwt.aud[]", true
	}
	return "request.jwt.claim" + rest + "[]", true
}

// headerValue: Envoy compares the lines of a header joined by commas, ours one by one, and their elements. A value with a
// comma may be about several lines.
func (s *scope) headerValue(negative bool) func(n *policy.Node) ([]string, error) {
	return func(n *policy.Node) ([]string, error) {
		if strings.Contains(n.Value, ",") && s.denies() != negative {
			return nil, errors.New("each line of a header is compared by itself here, and the comma may be between two")
		}
		return []string{n.Value}, nil
	}
}

// claimValue: Istio looks at text and lists of text, and takes "scope" and "permission" apart at spaces.
func (s *istioScope) claimValue(key string) func(negative bool) func(n *policy.Node) ([]string, error) {
	return func(negative bool) func(n *policy.Node) ([]string, error) {
		return func(n *policy.Node) ([]string, error) {
			words := key == "request.jwt.claim[scope][]" || key == "request.jwt.claim[permission][]"
			if words && s.wide(negative) {
				return nil, errors.New("a claim's text is not taken apart at spaces here")
			}
			if strings.HasPrefix(key, "request.jwt.claim") && !s.wide(negative) && mayBeNumber(n.Value) {
				return nil, errors.New("a number or boolean could match here, and only text does in Istio")
			}
			return []string{n.Value}, nil
		}
	}
}

// requestPrincipals translates "ISSUER/SUBJECT" into ways to fulfil it.
func (s *istioScope) requestPrincipals(list, not *policy.Node) ([][]policy.Condition, outcome) {
	ways, in := constrain(&s.scope, constraint{field: "requestPrincipals", list: list}, func(n *policy.Node) ([][]policy.Condition, error) {
		way, err := s.requestPrincipal(n.Value)
		if err == nil && s.denies() {
			s.note(n, "requestPrincipals: requests without a valid token are denied too")
		}
		if err == nil {
			err = s.valid(policy.Rule{When: way})
		}
		return [][]policy.Condition{way}, err
	})
	nots, out := constrain(&s.scope, constraint{"notRequestPrincipals", not, true}, func(n *policy.Node) ([][]policy.Condition, error) {
		switch {
		case !s.denies():
			return nil, errors.New("without a token nothing is known of it here, and an allow that looks at one does not match")
		case n.Value != "*":
			return nil, errors.New("issuer and subject together have no not-form here")
		}
		return [][]policy.Condition{{{Key: keyIssuer, NotValues: []string{"*"}}}}, nil
	})
	switch {
	case in == nothing || out == nothing:
		return nil, nothing
	case in == anything && out == anything:
		return nil, anything
	}
	return product(ways, nots), said
}

func (s *istioScope) requestPrincipal(v string) ([]policy.Condition, error) {
	if v == "*" {
		return []policy.Condition{{Key: keyIssuer, Values: []string{"*"}}}, nil
	}
	if s.denies() {
		return nil, errors.New("where the issuer ends and the subject begins is not known")
	}
	i := strings.LastIndexByte(v, '/')
	if i <= 0 || i == len(v)-1 || strings.Contains(v[:i], "*") {
		return nil, errors.New("want ISSUER/SUBJECT or ISSUER/*")
	}
	way := []policy.Condition{{Key: keyIssuer, Values: []string{v[:i]}}}
	if v[i+1:] != "*" {
		way = append(way, policy.Condition{Key: keySubject, Values: []string{v[i+1:]}})
	}
	return way, nil
}
