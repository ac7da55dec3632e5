package policyimport

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// An alternative is one way to fulfil a part of a rule: an entry of from or to, nil for any, with the conditions that
// belong to it alone.
type alternative[T any] struct {
	entry *T
	when  []policy.Condition
}

// assemble makes rules of which one matches if an alternative of each kind does. No alternatives of a kind are any.
func assemble(from []alternative[policy.Source], to []alternative[policy.Operation], whens [][]policy.Condition) []policy.Rule {
	if len(whens) == 0 {
		whens = [][]policy.Condition{nil}
	}
	var rules []policy.Rule
	for _, f := range group(from) {
		for _, t := range group(to) {
			for _, w := range whens {
				r := policy.Rule{From: f.entries, To: t.entries, When: slices.Concat(f.when, t.when, w)}
				if len(r.When) == 0 {
					r.When = nil
				}
				rules = append(rules, r)
			}
		}
	}
	return rules
}

type grouped[T any] struct {
	entries []T // nil for any
	when    []policy.Condition
}

// group puts alternatives with the same conditions together, as far as a rule has room.
func group[T any](list []alternative[T]) []grouped[T] {
	if len(list) == 0 {
		return []grouped[T]{{}}
	}
	var out []grouped[T]
	for _, a := range list {
		i := slices.IndexFunc(out, func(g grouped[T]) bool {
			return slices.EqualFunc(g.when, a.when, sameCondition) && (g.entries == nil) == (a.entry == nil) && len(g.entries) < policy.MaxEntries
		})
		if i < 0 {
			out = append(out, grouped[T]{when: a.when})
			i = len(out) - 1
		}
		if a.entry != nil {
			out[i].entries = append(out[i].entries, *a.entry)
		}
	}
	return out
}

func sameCondition(a, b policy.Condition) bool {
	return a.Key == b.Key && slices.Equal(a.Values, b.Values) && slices.Equal(a.NotValues, b.NotValues)
}

// grpcMethods returns the paths that are meant for gRPC, as our rules write them: "/pay.v1.Payments/Charge". The
// capitals tell them from the paths of HTTP APIs.
func grpcMethods(paths []string) []string {
	var out []string
	for _, p := range paths {
		name, ok := strings.CutPrefix(p, "/")
		service, method, ok2 := strings.Cut(name, "/")
		_, last, ok3 := cutLast(service, ".")
		if ok && ok2 && ok3 && capital(last) && (method == "*" || capital(method) && !strings.ContainsAny(method, "/*{")) {
			out = append(out, name)
		}
	}
	return out
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func capital(s string) bool { return s != "" && s[0] >= 'A' && s[0] <= 'Z' }

// withGRPC adds to an operation on HTTP requests the one on gRPC calls, which both sources see as a POST to a path.
func withGRPC(op policy.Operation, when []policy.Condition) []alternative[policy.Operation] {
	out := []alternative[policy.Operation]{{&op, when}}
	post := op.Methods == nil || slices.ContainsFunc(op.Methods, func(m string) bool { return matches(m, http.MethodPost) })
	if methods := grpcMethods(op.Paths); methods != nil && op.Hosts == nil && post {
		out = append(out, alternative[policy.Operation]{&policy.Operation{Ports: op.Ports, GRPC: methods}, when})
	}
	return out
}

// standardMethods are those of RFC 9110 and RFC 5789.
func standardMethods() []string {
	return []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace,
	}
}

// matches is how a value of ours, and of Istio's, matches text.
func matches(pattern, s string) bool {
	switch {
	case pattern == "*":
		return s != ""
	case strings.HasPrefix(pattern, "*"):
		return strings.HasSuffix(s, pattern[1:])
	case strings.HasSuffix(pattern, "*"):
		return strings.HasPrefix(s, pattern[:len(pattern)-1])
	}
	return s == pattern
}

// mayBeNumber reports whether the value could match a number or a boolean. Ours compares them as text, others do not
// look at them.
func mayBeNumber(pattern string) bool {
	text := strings.Trim(pattern, "*")
	if text == "" {
		return true
	}
	if strings.Trim(text, "0123456789+-.eE") == "" || strings.Contains("true", text) || strings.Contains("false", text) {
		return true
	}
	_, err := strconv.ParseFloat(text, 64)
	return err == nil
}
