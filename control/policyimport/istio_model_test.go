package policyimport_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// The types are those of the published AuthorizationPolicy; the evaluator is written from its reference
// (https://istio.io/latest/docs/reference/config/security/authorization-policy/ and …/conditions/), as plainly as it goes.
type (
	istioPolicy struct {
		APIVersion string    `json:"apiVersion"`
		Kind       string    `json:"kind"`
		Metadata   istioMeta `json:"metadata"`
		Spec       istioSpec `json:"spec"`
	}
	istioMeta struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	}
	istioSpec struct {
		Selector *istioSelector `json:"selector,omitempty"`
		Action   string         `json:"action,omitempty"`
		Rules    []istioRule    `json:"rules,omitempty"`
	}
	istioSelector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	}
	istioRule struct {
		From []istioFrom      `json:"from,omitempty"`
		To   []istioTo        `json:"to,omitempty"`
		When []istioCondition `json:"when,omitempty"`
	}
	istioFrom struct {
		Source map[string][]string `json:"source"`
	}
	istioTo struct {
		Operation map[string][]string `json:"operation"`
	}
	istioCondition struct {
		Key       string   `json:"key"`
		Values    []string `json:"values,omitempty"`
		NotValues []string `json:"notValues,omitempty"`
	}
)

// istioRequest is a request as Istio sees it.
type istioRequest struct {
	trustDomain, path string // of the caller's identity
	ip, remote, sni   string
	namespace, app    string
	version           string
	port              string
	tcp               bool
	method, url, host string
	headers           map[string][]string
	claims            map[string]any // nil: no token
}

const istioRoot = "istio-system"

func istioAllows(policies []istioPolicy, r *istioRequest) bool {
	hasAllow, allowed := false, false
	for _, p := range policies {
		if !p.selects(r) {
			continue
		}
		match := slices.ContainsFunc(p.Spec.Rules, func(rule istioRule) bool { return rule.match(r, p.Spec.Action == "DENY") })
		switch p.Spec.Action {
		case "DENY":
			if match {
				return false
			}
		case "", "ALLOW":
			hasAllow, allowed = true, allowed || match
		}
	}
	return !hasAllow || allowed
}

func (p istioPolicy) selects(r *istioRequest) bool {
	if p.Metadata.Namespace != istioRoot && p.Metadata.Namespace != r.namespace {
		return false
	}
	if p.Spec.Selector == nil {
		return true
	}
	labels := map[string]string{"app": r.app, "version": r.version}
	for k, v := range p.Spec.Selector.MatchLabels {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (rule istioRule) match(r *istioRequest, deny bool) bool {
	from := len(rule.From) == 0 || slices.ContainsFunc(rule.From, func(f istioFrom) bool { return fieldsMatch(f.Source, r, deny) })
	to := len(rule.To) == 0 || slices.ContainsFunc(rule.To, func(t istioTo) bool { return fieldsMatch(t.Operation, r, deny) })
	for _, c := range rule.When {
		if !r.match(c.Key, c.Values, false, deny) || !r.match(c.Key, c.NotValues, true, deny) {
			return false
		}
	}
	return from && to
}

func fieldsMatch(fields map[string][]string, r *istioRequest, deny bool) bool {
	for name, values := range fields {
		positive := name
		if rest, ok := strings.CutPrefix(name, "not"); ok {
			positive = strings.ToLower(rest[:1]) + rest[1:]
		}
		if !r.match(positive, values, positive != name, deny) {
			return false
		}
	}
	return true
}

// match reports whether one of the values matches an attribute, or none when they are negative.
func (r *istioRequest) match(key string, values []string, negative, deny bool) bool {
	if len(values) == 0 {
		return true
	}
	http := key == "methods" || key == "paths" || key == "hosts" || strings.HasPrefix(key, "request")
	if http && r.tcp {
		return deny // of what is not there, a deny takes that it matches
	}
	return slices.ContainsFunc(values, func(v string) bool { return r.one(key, v) }) != negative
}

func (r *istioRequest) one(key, v string) bool {
	principal := r.trustDomain + "/" + r.path
	namespace, account := "", ""
	if parts := strings.Split(r.path, "/"); len(parts) == 4 && parts[0] == "ns" && parts[2] == "sa" {
		namespace, account = parts[1], parts[3]
	}
	switch key {
	case "principals", "source.principal":
		return istioMatch(v, principal)
	case "namespaces", "source.namespace":
		return istioMatch(v, namespace)
	case "serviceAccounts":
		return v == namespace+"/"+account
	case "ipBlocks", "source.ip":
		return inBlock(v, r.ip)
	case "remoteIpBlocks", "remote.ip":
		return inBlock(v, r.remote)
	case "connection.sni":
		return istioMatch(v, r.sni)
	case "ports", "destination.port":
		return v == r.port
	case "methods":
		return istioMatch(v, r.method)
	case "hosts":
		return istioMatch(strings.ToLower(v), strings.ToLower(r.host))
	case "paths":
		if strings.Contains(v, "{*}") || strings.Contains(v, "{**}") {
			expr := strings.NewReplacer(`\{\*\*\}`, `.*`, `\{\*\}`, `[^/]+`).Replace(regexp.QuoteMeta(v))
			return regexp.MustCompile("^" + expr + "$").MatchString(r.url)
		}
		return istioMatch(v, r.url)
	case "requestPrincipals", "request.auth.principal":
		iss, _ := r.claims["iss"].(string)
		sub, _ := r.claims["sub"].(string)
		return r.claims != nil && istioMatch(v, iss+"/"+sub)
	case "request.auth.audiences":
		return r.claim(v, "aud")
	case "request.auth.presenter":
		return r.claim(v, "azp")
	}
	if name, ok := strings.CutPrefix(key, "request.headers["); ok {
		lines, ok := r.headers[strings.TrimSuffix(name, "]")]
		return ok && (v == "*" || istioMatch(v, strings.Join(lines, ",")))
	}
	if name, ok := strings.CutPrefix(key, "request.auth.claims["); ok {
		return r.claim(v, strings.TrimSuffix(name, "]"))
	}
	panic(key)
}

// claim looks at text and lists of text only.
func (r *istioRequest) claim(v, name string) bool {
	switch c := r.claims[name].(type) {
	case string:
		if name == "scope" || name == "permission" {
			return slices.ContainsFunc(strings.Fields(c), func(s string) bool { return istioMatch(v, s) })
		}
		return istioMatch(v, c)
	case []any:
		return slices.ContainsFunc(c, func(s any) bool {
			text, ok := s.(string)
			return ok && istioMatch(v, text)
		})
	}
	return false
}

func istioMatch(pattern, s string) bool {
	switch {
	case pattern == "*":
		return s != ""
	case strings.HasPrefix(pattern, "*"):
		return strings.HasSuffix(s, pattern[1:])
	case strings.HasSuffix(pattern, "*"):
		return strings.HasPrefix(s, pattern[:len(pattern)-1])
	}
	return pattern == s
}

func inBlock(block, ip string) bool {
	if !strings.Contains(block, "/") {
		return block == ip
	}
	p, err := netip.ParsePrefix(block)
	return err == nil && p.Masked().Contains(netip.MustParseAddr(ip))
}
