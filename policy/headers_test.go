package policy_test

import (
	"context"
	"testing"

	"github.com/intramesh/mesh/policy"
)

func TestDecisionTellsWhetherHeadersMatter(t *testing.T) {
	header := `"rules":[{"from":[{"services":["orders"]}],"when":[{"key":"request.header.x-env","values":["prod"]}]}]`
	claim := `"rules":[{"when":[{"key":"request.jwt.sub","values":["ann"]}]}]`
	plain := `"rules":[{"from":[{"services":["orders"]}],"to":[{"methods":["GET"]}],"when":[{"key":"source.ip","values":["10.0.0.0/8"]}]}]`
	for name, c := range map[string]struct {
		docs   []string
		unused bool
	}{
		"none":                   {nil, true},
		"a rule without":         {[]string{doc("a", "payments", "allow", plain)}, true},
		"a rule":                 {[]string{doc("a", "payments", "allow", plain), doc("b", "payments", "allow", header)}, false},
		"a rule of all services": {[]string{doc("a", "payments", "allow", plain), doc("b", "*", "deny", header)}, false},
		"a token":                {[]string{doc("a", "payments", "deny", claim)}, false},
		"for the record":         {[]string{doc("a", "payments", "audit", header)}, false},
		"dry run":                {[]string{doc("a", "payments", "allow", `"mode":"dryrun",`+header)}, false},
		"another service":        {[]string{doc("a", "payments", "allow", plain), doc("b", "billing", "allow", header)}, true},
	} {
		e, err := policy.Static(prod, parse(t, c.docs...)...)
		if err != nil {
			t.Fatal(err)
		}
		r := request(t, func(r *policy.Request) { r.Destination = "payments" })
		if d := e.Authorize(t.Context(), r); d.HeadersUnused != c.unused {
			t.Errorf("%s: HeadersUnused = %v", name, d.HeadersUnused)
		}
		then := policy.Then(e, "own", func(_ context.Context, r *policy.Request) policy.Decision { return e.Authorize(t.Context(), r) })
		if then.Authorize(t.Context(), r).HeadersUnused {
			t.Errorf("%s: the application's function may look at headers", name)
		}
	}
}
