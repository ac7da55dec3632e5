package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/intramesh/mesh/policy"
)

const (
	anyIssuer = `{"apiVersion":"mesh/v1","kind":"TokenIssuer","metadata":{"name":"idp"},"spec":{"issuer":"https://idp.example","audiences":["payments"],"jwksURL":"https://idp.example/keys"}}`
	fromA     = `"from":[{"services":["a"]}]`
)

func byDefault(name, service, verdict string) string {
	return `{"apiVersion":"mesh/v1","kind":"Default","metadata":{"name":"` + name + `"},"spec":{"service":"` + service + `","verdict":"` + verdict + `"}}`
}

func TestLint(t *testing.T) {
	rule := func(s string) string { return `"rules":[{` + s + `}]` }
	claim := `"when":[{"key":"request.jwt.claim.role","values":["admin"]}]`
	for name, tt := range map[string]struct {
		docs []string
		want []string // parts of the warnings, in order
	}{
		"nothing to say":                     {[]string{doc("p", "payments", "allow", rule(fromA))}, nil},
		"ports were thought of":              {[]string{doc("p", "payments", "allow", rule(`"to":[{"ports":["web"],"paths":["/x"]}]`))}, nil},
		"ports in a condition":               {[]string{doc("p", "payments", "allow", rule(`"to":[{"paths":["/x"]}],"when":[{"key":"destination.port","values":["web"]}]`))}, nil},
		"an operation of connections beside": {[]string{doc("p", "payments", "allow", rule(`"to":[{"ports":["*"]},{"paths":["/x"]}]`))}, []string{`looks at the path`}},
		"allow with HTTP fields":             {[]string{doc("p", "payments", "allow", rule(`"to":[{"paths":["/x"]}]`))}, []string{`p: spec.rules[0]: looks at the path: where a port of payments serves connections`}},
		"deny with gRPC fields":              {[]string{doc("p", "payments", "deny", rule(`"to":[{"grpc":["a.B/*"]}]`))}, []string{`this rule closes it`}},
		"audit changes nothing":              {[]string{doc("p", "payments", "audit", rule(`"to":[{"paths":["/x"]}]`))}, nil},
		"no rules":                           {[]string{doc("p", "payments", "allow", "")}, []string{"spec.rules: has no rules"}},
		"caller left out":                    {[]string{doc("p", "payments", "deny", rule(`"from":[{"services":["a"],"notServices":["*"]}]`))}, []string{"spec.rules[0].from: can't match"}},
		"one source is left":                 {[]string{doc("p", "payments", "deny", rule(`"from":[{"services":["a"],"notServices":["*"]},{"services":["b"]}]`))}, nil},
		"value left out":                     {[]string{doc("p", "payments", "deny", rule(`"when":[{"key":"destination.port","values":["web"],"notValues":["w*"]}]`))}, []string{"spec.rules[0].when[0]: can't match"}},
		"header must be absent":              {[]string{doc("p", "payments", "audit", rule(`"when":[{"key":"request.header.x","notValues":["*"]}]`))}, nil},
		"HTTP and gRPC":                      {[]string{doc("p", "payments", "allow", rule(`"to":[{"ports":["web"],"paths":["/x"],"grpc":["a.B/*"]}]`))}, []string{"to[0]: can't match: no request has both"}},
		"deny by a value with a comma":       {[]string{doc("p", "payments", "deny", rule(`"to":[{"ports":["web"]}],"when":[{"key":"request.header.x","values":["a, b"]}]`))}, []string{"spec.rules[0].when[0]: a value with a comma"}},
		"deny by one of many":                {[]string{doc("p", "payments", "deny", rule(`"to":[{"ports":["web"]}],"when":[{"key":"request.header.x","values":["1","2","3","4","5","6","7","8","a, b"]}]`))}, []string{"spec.rules[0].when[0]: a value with a comma"}},
		"allow by a value with a comma":      {[]string{doc("p", "payments", "allow", rule(`"to":[{"ports":["web"]}],"when":[{"key":"request.header.x","values":["a, b"]}]`))}, nil},
		"claim without issuer":               {[]string{doc("p", "payments", "audit", rule(claim))}, []string{"no document is a TokenIssuer"}},
		"deny by claim":                      {[]string{doc("p", "payments", "deny", rule(`"to":[{"ports":["web"]}],`+claim)), anyIssuer}, []string{"also denies every request that has no valid token"}},
		"issuer that nobody asks":            {[]string{doc("p", "payments", "allow", rule(fromA)), anyIssuer}, []string{"idp: no rule looks at a claim"}},
		"overruled by a deny":                {[]string{doc("p", "billing/x", "allow", rule(fromA)), doc("q", "billing/*", "deny", `"rules":[{}]`)}, []string{"p: spec.rules[0]: allows nothing: q[0] denies"}},
		"deny of others":                     {[]string{doc("p", "payments", "allow", rule(fromA)), doc("q", "*", "deny", rule(`"from":[{"services":["test/*"]}]`))}, nil},
		"done by a wider one":                {[]string{doc("p", "payments", "allow", rule(fromA)), doc("q", "*", "allow", rule(`"from":[{"services":["*"]}]`))}, []string{"p: spec.rules[0]: changes nothing: q[0]"}},
		"other trust domain":                 {[]string{doc("p", "payments", "allow", rule(`"from":[{"services":["a"],"trustDomains":["x.example"]}]`)), doc("q", "*", "allow", rule(`"from":[{"services":["*"]}]`))}, nil},
		"twice the same, told once":          {[]string{doc("p", "payments", "allow", rule(fromA)), doc("q", "payments", "allow", rule(fromA))}, []string{"q: spec.rules[0]: changes nothing: p[0]"}},
		"dry run does nothing":               {[]string{doc("p", "payments", "allow", rule(fromA)), doc("q", "*", "deny", `"mode":"dryrun","rules":[{}]`)}, nil},
		"default allows": {[]string{doc("p", "billing/x", "allow", rule(fromA)), byDefault("open", "billing/*", "allow")},
			[]string{"open: spec.verdict: allows whatever", "p: spec.rules[0]: changes nothing: open allows by default"}},
		"a closer default denies": {[]string{doc("p", "billing/x", "allow", rule(fromA)), byDefault("open", "*", "allow"), byDefault("shut", "billing/x", "deny")}, []string{"open: "}},
	} {
		t.Run(name, func(t *testing.T) {
			got := policy.Lint(parse(t, tt.docs...))
			if len(got) != len(tt.want) || slices.ContainsFunc(tt.want, func(w string) bool { return !slices.ContainsFunc(got, has(w)) }) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func has(part string) func(policy.Warning) bool {
	return func(w policy.Warning) bool { return strings.Contains(w.String(), part) }
}

func TestLintPassesOverWhatIsNotValid(t *testing.T) {
	if got := policy.Lint([]policy.Document{{}, {Kind: policy.KindDefault}, {Kind: policy.KindTokenIssuer}}); got != nil {
		t.Error(got)
	}
}

func TestCheck(t *testing.T) {
	e := engine(t, anyIssuer,
		doc("http", "*", "allow", `"rules":[{"to":[{"ports":["web"],"paths":["/x"]}]},{"to":[{"ports":["web"],"paths":["/y"]}]}]`),
		doc("shut", "payments", "deny", `"rules":[{"when":[{"key":"request.header.x","values":["y"]},{"key":"destination.port","values":["","web"]}]}]`),
		doc("user", "payments", "allow", `"rules":[{"to":[{"ports":["web"]}],"when":[{"key":"request.jwt.sub","values":["*"]}]}]`),
		doc("dry", "payments", "deny", `"mode":"dryrun","rules":[{"to":[{"paths":["/x"]}]}]`),
		doc("other", "orders", "deny", `"rules":[{"to":[{"paths":["/x"]}]}]`),
	)
	for _, tt := range []struct {
		l    policy.Listener
		want []string
	}{
		{policy.Listener{Service: "payments", Port: "web", Requests: true, Tokens: true}, nil},
		{policy.Listener{Service: "payments", Port: "web", Requests: true}, []string{"user: spec.rules[0]: looks at a claim, and port \"web\" of payments verifies no tokens: this rule allows nothing"}},
		{policy.Listener{Service: "payments", Port: "web"}, []string{"shut: spec.rules[0]: looks at the header", "user: ", "http: spec.rules[0]: looks at the path"}},
		{policy.Listener{Service: "payments"}, []string{"the default port of payments serves connections, not requests: the port is closed"}},
		{policy.Listener{Service: "payments", Port: "db"}, nil},
	} {
		got := e.Check(tt.l)
		if len(got) != len(tt.want) || slices.ContainsFunc(tt.want, func(w string) bool { return !slices.ContainsFunc(got, has(w)) }) {
			t.Errorf("%+v: got %q, want %q", tt.l, got, tt.want)
		}
	}
	if got := (*policy.Engine)(nil).Check(policy.Listener{Service: "payments"}); got != nil {
		t.Error(got)
	}
}
