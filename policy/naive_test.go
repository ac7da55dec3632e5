package policy_test

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// The evaluator here reads authorization.md as directly as it can: documents as written, every
// rule of every document, Kleene's logic with three values. It shares nothing with the engine.

// tri is a truth value; and is min, or is max, not is the sign.
type tri int

const (
	no      tri = -1
	unknown tri = 0
	yes     tri = 1
)

func truth(b bool) tri {
	if b {
		return yes
	}
	return no
}

type naive struct {
	trustDomain string
	docs        []policy.Document
}

// decide returns the verdict, and whether it was the default.
func (n naive) decide(r *policy.Request) (v policy.Verdict, byDefault bool) {
	for _, action := range []policy.Action{policy.ActionDeny, policy.ActionAllow} {
		for _, d := range n.docs {
			if d.Kind != policy.Kind || d.Spec.Action != action || d.Spec.Mode == policy.ModeDryRun || !destination(d.Spec.Service, r.Destination) {
				continue
			}
			for i := range d.Spec.Rules {
				if n.matches(&d, i, r) {
					return map[policy.Action]policy.Verdict{policy.ActionAllow: policy.Allow}[action], false
				}
			}
		}
	}
	return n.byDefault(r), true
}

// byDefault is the verdict of the Default whose service is written most exactly.
func (n naive) byDefault(r *policy.Request) policy.Verdict {
	v := n.setting(r, func(d *policy.DefaultSpec) string { return string(d.Verdict) })
	return map[string]policy.Verdict{"allow": policy.Allow}[v]
}

// tells reports whether the caller is told of a denial.
func (n naive) tells(r *policy.Request) bool {
	v := n.setting(r, func(d *policy.DefaultSpec) string { return string(d.Denials) })
	return v != "bare" && r.Source.TrustDomain().Name() == n.trustDomain
}

// setting is a field of the Default whose service is written most exactly, of those that have it.
func (n naive) setting(r *policy.Request, field func(*policy.DefaultSpec) string) string {
	v, longest := "", -1
	for _, d := range n.docs {
		if d.Default == nil || field(d.Default) == "" || !destination(d.Default.Service, r.Destination) {
			continue
		}
		exactness := len(strings.TrimSuffix(d.Default.Service, "*"))
		if d.Default.Service == r.Destination {
			exactness = len(r.Destination) + 1
		}
		if exactness > longest {
			longest, v = exactness, field(d.Default)
		}
	}
	return v
}

// matches decides one rule as its action does: what is unknown matches a deny only.
func (n naive) matches(d *policy.Document, rule int, r *policy.Request) bool {
	t := n.rule(&d.Spec.Rules[rule], r, d.Spec.Action)
	return t == yes || t == unknown && d.Spec.Action == policy.ActionDeny
}

func destination(pattern, service string) bool {
	if pattern == "*" {
		return true
	}
	if p, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(service, p+"/")
	}
	return pattern == service
}

func (n naive) rule(rule *policy.Rule, r *policy.Request, a policy.Action) tri {
	from, to, when := yes, yes, yes
	if len(rule.From) > 0 {
		from = no
		for _, s := range rule.From {
			from = max(from, n.source(s, r))
		}
	}
	if len(rule.To) > 0 {
		to = no
		for _, o := range rule.To {
			to = max(to, operation(o, r, a))
		}
	}
	for _, c := range rule.When {
		when = min(when, condition(c, r, a))
	}
	return min(from, to, when)
}

func (n naive) source(s policy.Source, r *policy.Request) tri {
	td := r.Source.TrustDomain().Name()
	name := strings.TrimPrefix(r.Source.Path(), "/")
	service := func(list []string) tri {
		if name == "" {
			return unknown
		}
		if s.TrustDomains == nil && td != n.trustDomain {
			return no
		}
		return oneOf(list, name)
	}
	domain := func(list []string) tri {
		if td == "" {
			return unknown
		}
		return oneOf(list, td)
	}
	out := yes
	if s.Services != nil {
		out = min(out, service(s.Services))
	}
	if s.NotServices != nil {
		out = min(out, -service(s.NotServices))
	}
	if s.TrustDomains != nil {
		out = min(out, domain(s.TrustDomains))
	}
	if s.NotTrustDomains != nil {
		out = min(out, -domain(s.NotTrustDomains))
	}
	return min(out, addresses(s.IPs, s.NotIPs, r))
}

func addresses(list, not []string, r *policy.Request) tri {
	out := yes
	if list != nil {
		out = min(out, address(list, r.SourceAddr))
	}
	if not != nil {
		out = min(out, -address(not, r.SourceAddr))
	}
	return out
}

func address(list []string, a netip.Addr) tri {
	if !a.IsValid() {
		return unknown
	}
	a = a.Unmap().WithZone("")
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil && p.Contains(a) || s == a.String() {
			return yes
		}
	}
	return no
}

func oneOf(list []string, s string) tri {
	for _, v := range list {
		if v == s || v == "*" {
			return yes
		}
		if p, ok := strings.CutSuffix(v, "*"); ok && strings.HasPrefix(s, p) {
			return yes
		}
		if p, ok := strings.CutPrefix(v, "*"); ok && strings.HasSuffix(s, p) {
			return yes
		}
	}
	return no
}

// later is what a field is at the accept of a connection whose requests will be decided: to
// an allow, something that could match; to a deny, nothing that it can refuse yet.
func later(r *policy.Request, a policy.Action) tri {
	if !r.Deferred || r.Layer != policy.LayerConnection {
		return unknown
	}
	return truth(a == policy.ActionAllow)
}

func operation(o policy.Operation, r *policy.Request, a policy.Action) tri {
	out := yes
	field := func(list []string, s string, known bool) {
		if list != nil && !known {
			out = min(out, later(r, a))
		} else if list != nil {
			out = min(out, oneOf(list, s))
		}
	}
	isHTTP := r.Layer == policy.LayerHTTP
	field(o.Ports, r.Port, true)
	field(o.Methods, r.Method, isHTTP && r.Method != "")
	field(o.Hosts, r.Host, isHTTP && r.Host != "")
	field(o.GRPC, r.GRPCMethod, r.Layer == policy.LayerGRPC && r.GRPCMethod != "" && !strings.HasPrefix(r.GRPCMethod, "/"))
	if o.Paths != nil && (!isHTTP || !strings.HasPrefix(r.Path, "/")) {
		out = min(out, later(r, a))
	} else if o.Paths != nil {
		best := oneOf(o.Paths, r.Path)
		for _, p := range o.Paths {
			best = max(best, truth(template(p, r.Path)))
		}
		out = min(out, best)
	}
	return out
}

// template matches segment by segment.
func template(pattern, path string) bool {
	if !strings.Contains(pattern, "{") {
		return false
	}
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	for i, w := range want {
		switch {
		case i >= len(have):
			return false
		case strings.HasSuffix(w, "...}"):
			return true
		case strings.HasPrefix(w, "{") && have[i] == "", !strings.HasPrefix(w, "{") && have[i] != w:
			return false
		}
	}
	return len(want) == len(have)
}

func condition(c policy.Condition, r *policy.Request, a policy.Action) tri {
	switch c.Key {
	case "source.ip":
		return addresses(c.Values, c.NotValues, r)
	case "destination.port":
		return value(c, r.Port)
	}
	if r.Layer == policy.LayerConnection {
		return later(r, a)
	}
	var lines []string
	if name, ok := strings.CutPrefix(c.Key, "request.header."); ok {
		if r.Header == nil {
			return unknown
		}
		lines = append(lines, r.Header[http.CanonicalHeaderKey(name)]...)
		if r.Layer == policy.LayerGRPC {
			lines = append(lines, r.Header[name]...) // metadata is in lower case
		}
		return byElements(c, lines, a)
	}
	if r.Claims == nil {
		return unknown
	}
	claim := r.Claims["role"]
	if strings.HasPrefix(c.Key, "request.jwt.claim.of.x") {
		claim = r.Claims["of"].(map[string]any)["x"]
	}
	switch claim := claim.(type) {
	case string:
		lines = []string{claim}
	case []any:
		for _, s := range claim {
			lines = append(lines, s.(string))
		}
	case map[string]any:
		return unknown
	}
	if len(lines) == 0 {
		return truth(c.Values == nil)
	}
	if strings.HasSuffix(c.Key, "[]") { // the claim as a set
		meets := func(list []string) tri {
			out := no
			for _, s := range lines {
				out = max(out, oneOf(list, s))
			}
			return out
		}
		out := yes
		if c.Values != nil {
			out = meets(c.Values)
		}
		return min(out, -meets(c.NotValues))
	}
	every, some := yes, no
	for _, s := range lines {
		every, some = min(every, value(c, s)), max(some, value(c, s))
	}
	if a == policy.ActionAllow {
		return every
	}
	return some
}

// byElements decides by lines and by their elements: every one for an allow, any for others.
func byElements(c policy.Condition, lines []string, a policy.Action) tri {
	if len(lines) == 0 {
		return truth(c.Values == nil)
	}
	every, some := yes, no
	for _, line := range lines {
		every, some = min(every, value(c, line)), max(some, value(c, line))
		if !strings.Contains(line, ",") {
			continue
		}
		for e := range strings.SplitSeq(line, ",") {
			e = strings.TrimSpace(e)
			if slices.Contains(c.Values, line) { // the line is asked for, so that its elements need not be
				every = min(every, -oneOf(c.NotValues, e))
			} else {
				every = min(every, value(c, e))
			}
			if !slices.Contains(c.NotValues, line) { // else the line is left out, and its elements with it
				some = max(some, value(c, e))
			}
		}
	}
	if a == policy.ActionAllow {
		return every
	}
	return some
}

func value(c policy.Condition, s string) tri {
	out := yes
	if c.Values != nil {
		out = min(out, oneOf(c.Values, s))
	}
	if c.NotValues != nil {
		out = min(out, -oneOf(c.NotValues, s))
	}
	return out
}
