package policy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/policy"
)

func byClaim(action policy.Action, key, values string) string {
	return doc("p", "payments", action, fmt.Sprintf(`"rules":[{"when":[{"key":%q,%s}]}]`, key, values))
}

func TestClaims(t *testing.T) {
	type object = map[string]any
	const role = "request.jwt.claim.role"
	for _, tt := range []struct {
		name, key, values string
		claims            object // nil: unavailable
		allow, deny       bool   // whether an allow and a deny rule match
	}{
		{"text", role, `"values":["admin"]`, object{"role": "admin"}, true, true},
		{"other text", role, `"values":["admin"]`, object{"role": "user"}, false, false},
		{"case", role, `"values":["admin"]`, object{"role": "Admin"}, false, false},
		{"prefix", role, `"values":["adm*"]`, object{"role": "admin"}, true, true},
		{"presence", role, `"values":["*"]`, object{"role": ""}, true, true},
		{"left out", role, `"notValues":["admin"]`, object{"role": "admin"}, false, false},
		{"not left out", role, `"notValues":["admin"]`, object{"role": "user"}, true, true},
		{"absent", role, `"values":["admin"]`, object{}, false, false},
		{"absent is not present", role, `"values":["*"]`, object{}, false, false},
		{"absent is none of those left out", role, `"notValues":["admin"]`, object{}, true, true},
		{"null is absent", role, `"notValues":["admin"]`, object{"role": nil}, true, true},
		{"an empty list is absent", role, `"values":["*"]`, object{"role": []any{}}, false, false},
		{"unavailable", role, `"values":["admin"]`, nil, false, true},
		{"unavailable, left out", role, `"notValues":["admin"]`, nil, false, true},
		{"unavailable, any", role, `"values":["*"]`, nil, false, true},
		{"list, all", role, `"values":["a","b"]`, object{"role": []any{"a", "b"}}, true, true},
		{"list, one", role, `"values":["a"]`, object{"role": []any{"a", "b"}}, false, true},
		{"list, none", role, `"values":["c"]`, object{"role": []any{"a", "b"}}, false, false},
		{"list, one left out", role, `"notValues":["a"]`, object{"role": []any{"a", "b"}}, false, true},
		{"list, all left out", role, `"notValues":["a","b"]`, object{"role": []any{"a", "b"}}, false, false},
		{"list, all of them, and commas", role, `"values":["a"]`, object{"role": "a,b"}, false, false},
		{"some, one", role + "[]", `"values":["a"]`, object{"role": []any{"a", "b"}}, true, true},
		{"some, none", role + "[]", `"values":["c"]`, object{"role": []any{"a", "b"}}, false, false},
		{"some, not one", role + "[]", `"notValues":["a"]`, object{"role": []any{"a", "b"}}, false, false},
		{"some, not any", role + "[]", `"notValues":["c"]`, object{"role": []any{"a", "b"}}, true, true},
		{"some, one but not another", role + "[]", `"values":["a"],"notValues":["b"]`, object{"role": []any{"a", "b"}}, false, false},
		{"some of text", role + "[]", `"values":["a"]`, object{"role": "a"}, true, true},
		{"some of nothing", role + "[]", `"values":["*"]`, object{}, false, false},
		{"not some of nothing", role + "[]", `"notValues":["*"]`, object{"role": []any{}}, true, true},
		{"some, one unclear", role + "[]", `"values":["a"]`, object{"role": []any{"a", object{}}}, false, true},
		{"some, unavailable", role + "[]", `"values":["a"]`, nil, false, true},
		{"some of aud", "request.jwt.aud[]", `"values":["payments"]`, object{"aud": []any{"x", "payments"}}, true, true},
		{"some of a name with dots", "request.jwt.claim[x.y][z][]", `"values":["a"]`, object{"x.y": object{"z": []any{"b", "a"}}}, true, true},
		{"number", role, `"values":["9007199254740993"]`, object{"role": json.Number("9007199254740993")}, true, true},
		{"true", role, `"values":["true"]`, object{"role": true}, true, true},
		{"false is not true", role, `"values":["true"]`, object{"role": false}, false, false},
		{"an object has no value", role, `"values":["a"]`, object{"role": object{"a": "a"}}, false, true},
		{"nor has it none", role, `"notValues":["a"]`, object{"role": object{"a": "a"}}, false, true},
		{"a list with an object", role, `"values":["a"]`, object{"role": []any{"a", object{}}}, false, true},
		{"a list in a list", role, `"values":["a"]`, object{"role": []any{[]any{"a"}}}, false, true},
		{"a list with null", role, `"values":["a"]`, object{"role": []any{"a", nil}}, false, true},
		{"member", "request.jwt.claim.x.role", `"values":["a"]`, object{"x": object{"role": "a"}}, true, true},
		{"member of nothing", "request.jwt.claim.x.role", `"values":["a"]`, object{}, false, false},
		{"member of text", "request.jwt.claim.x.role", `"notValues":["a"]`, object{"x": "role"}, false, true},
		{"member of a list", "request.jwt.claim.x.role", `"notValues":["a"]`, object{"x": []any{object{"role": "b"}}}, false, true},
		{"a dot is a member", "request.jwt.claim.x.role", `"values":["a"]`, object{"x.role": "a"}, false, false},
		{"a name with dots", "request.jwt.claim[https://x.example/role]", `"values":["a"]`, object{"https://x.example/role": "a"}, true, true},
		{"its member", "request.jwt.claim[x.y][z].w", `"values":["a"]`, object{"x.y": object{"z": object{"w": "a"}}}, true, true},
		{"iss", "request.jwt.iss", `"values":["https://idp.example"]`, object{"iss": "https://idp.example"}, true, true},
		{"sub", "request.jwt.sub", `"values":["*@x.example"]`, object{"sub": "a@x.example"}, true, true},
		{"aud", "request.jwt.aud", `"values":["payments"]`, object{"aud": []any{"payments"}}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httpRequest(t, "GET", "/")
			r.Claims = tt.claims
			if got := engine(t, byClaim("allow", tt.key, tt.values)).Authorize(t.Context(), r); (got.Verdict == policy.Allow) != tt.allow {
				t.Error(got)
			}
			if got := engine(t, byClaim("deny", tt.key, tt.values), byDefault("d", "*", "allow")).Authorize(t.Context(), r); (got.Verdict == policy.Deny) != tt.deny {
				t.Error(got)
			}
		})
	}
}

// verifier answers by what the token is called.
type verifier struct{ asked []string }

var errBad = errors.New("it is bad")

func (v *verifier) Verify(token string, issuers []*policy.TokenIssuer) (*policy.Token, error) {
	v.asked = append(v.asked, token+" "+issuers[0].Issuer)
	switch token {
	case "bad":
		return nil, errBad
	case "nothing":
		return nil, nil
	case "soon":
		return nil, &policy.PendingError{Ready: ready(), Issuer: "x"}
	}
	return &policy.Token{Claims: map[string]any{"sub": token}, Until: until}, nil
}

func ready() chan struct{} { return make(chan struct{}) }

var until = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

func issuerIn(name, issuer, header string) string {
	return fmt.Sprintf(`{"apiVersion":"mesh/v1","kind":"TokenIssuer","metadata":{"name":%q},"spec":{"issuer":%q,"audiences":["a"],"jwksURL":"https://x.example/k","header":%q}}`, name, issuer, header)
}

func TestWhichTokenCounts(t *testing.T) {
	alice := byClaim("allow", "request.jwt.sub", `"values":["alice"]`)
	for name, tt := range map[string]struct {
		header http.Header
		allow  bool
		reason string
		asked  string
	}{
		"bearer":                    {http.Header{"Authorization": {"Bearer alice"}}, true, "", "alice one"},
		"scheme in any case":        {http.Header{"Authorization": {"bEARER  alice "}}, true, "", "alice one"},
		"gRPC's spelling":           {http.Header{"authorization": {"Bearer alice"}}, true, "", "alice one"},
		"another's header":          {http.Header{"X-Token": {"alice"}}, true, "", "alice two"},
		"another's, with a scheme":  {http.Header{"X-Token": {"Bearer alice"}}, true, "", "alice two"},
		"no token":                  {http.Header{}, false, "the request has no token", ""},
		"another scheme":            {http.Header{"Authorization": {"Basic alice"}}, false, "the request has no token", ""},
		"no scheme":                 {http.Header{"Authorization": {"alice"}}, false, "the request has no token", ""},
		"no token after the scheme": {http.Header{"Authorization": {"Bearer "}}, false, "the request has no token", ""},
		"another header":            {http.Header{"X-Other": {"Bearer alice"}}, false, "the request has no token", ""},
		"two lines":                 {http.Header{"Authorization": {"Bearer alice", "Bearer alice"}}, false, "more than one token", ""},
		"two spellings":             {http.Header{"Authorization": {"Bearer alice"}, "authorization": {"Bearer alice"}}, false, "more than one token", ""},
		"two headers":               {http.Header{"Authorization": {"Bearer alice"}, "X-Token": {"alice"}}, false, "more than one token", ""},
		"a scheme beside":           {http.Header{"Authorization": {"Basic x", "Bearer alice"}}, true, "", "alice one"},
		"somebody else":             {http.Header{"Authorization": {"Bearer bob"}}, false, "no rule allows GET /", "bob one"},
		"bad":                       {http.Header{"Authorization": {"Bearer bad"}}, false, "it is bad", "bad one"},
		"nothing":                   {http.Header{"Authorization": {"Bearer nothing"}}, false, "returned nothing", "nothing one"},
	} {
		t.Run(name, func(t *testing.T) {
			e := engine(t, alice, issuerIn("i", "one", ""), issuerIn("j", "two", "X-Token"))
			v := new(verifier)
			r := httpRequest(t, "GET", "/")
			r.Header, r.Tokens = tt.header, v
			d := e.Authorize(t.Context(), r)
			if (d.Verdict == policy.Allow) != tt.allow || !strings.Contains(d.Reason, tt.reason) || strings.Join(v.asked, ",") != tt.asked {
				t.Errorf("%v, asked %q", d, v.asked)
			}
			if tt.allow && !d.NotAfter.Equal(until) || !tt.allow && !d.NotAfter.IsZero() || d.Retry != nil {
				t.Error(d.NotAfter, d.Retry)
			}
		})
	}
}

func TestPendingTokenIsWorthARetry(t *testing.T) {
	e := engine(t, byClaim("allow", "request.jwt.sub", `"values":["alice"]`), issuerIn("i", "one", ""), byDefault("d", "ledger", "allow"))
	r := httpRequest(t, "GET", "/")
	r.Header, r.Tokens = http.Header{"Authorization": {"Bearer soon"}}, new(verifier)
	if d := e.Authorize(t.Context(), r); d.Verdict != policy.Deny || d.Retry == nil {
		t.Error(d)
	}
	r.Destination = "ledger"
	if d := e.Authorize(t.Context(), r); d.Verdict != policy.Allow || d.Retry != nil {
		t.Error(d)
	}
}

func TestWhyClaimsAreNotKnown(t *testing.T) {
	rule := byClaim("deny", "request.jwt.sub", `"values":["alice"]`)
	r := httpRequest(t, "GET", "/")
	r.Header = http.Header{"Authorization": {"Bearer alice"}}
	for want, e := range map[string]*policy.Engine{
		"the mesh knows no issuer of tokens": engine(t, rule),
		"this process verifies no tokens":    engine(t, rule, issuerIn("i", "one", "")),
	} {
		if d := e.Authorize(t.Context(), r); d.Verdict != policy.Deny || !strings.HasSuffix(d.Reason, want) {
			t.Error(d)
		}
		if x := e.Explain(t.Context(), r); !x.Policies[0].Matched || !strings.HasSuffix(x.Policies[0].Rules[0].Why, want) {
			t.Errorf("%+v", x)
		}
	}
	// A connection that is decided as a whole has no token; one whose requests are decided later is let in.
	c := request(t, func(*policy.Request) {})
	e := engine(t, byClaim("allow", "request.jwt.sub", `"values":["alice"]`), issuerIn("i", "one", ""))
	if d := e.Authorize(t.Context(), c); d.Verdict != policy.Deny {
		t.Error(d)
	}
	c.Deferred = true
	if d := e.Authorize(t.Context(), c); d.Verdict != policy.Allow {
		t.Error(d)
	}
}

func TestDefaults(t *testing.T) {
	e := engine(t, byDefault("mesh", "*", "allow"), byDefault("billing", "billing/*", "deny"), byDefault("open", "billing/x", "allow"),
		doc("p", "billing/x", "deny", `"rules":[{"from":[{"services":["orders"]}],"to":[{"ports":["admin"]}]}]`),
		doc("q", "billing/y", "allow", `"mode":"dryrun","rules":[{}]`), doc("r", "payments", "deny", `"mode":"dryrun","rules":[{}]`))
	for _, tt := range []struct{ to, port, want string }{
		{"payments", "", "allow by mesh: no rule decides; the default of the mesh allows it"},
		{"billing", "", "allow by mesh: no rule decides; the default of the mesh allows it"},
		{"billing/y", "", "deny by billing: no policy allows anybody to call billing/y (1 policy is in dry run)"},
		{"billing/x", "", "allow by open: no rule decides; a default of the service allows it"},
		{"billing/x", "admin", "deny by p[0]: a rule matches"},
	} {
		r := request(t, func(r *policy.Request) { r.Destination, r.Port = tt.to, tt.port })
		d := e.Authorize(t.Context(), r)
		if d.String() != tt.want {
			t.Errorf("%s: %s, want %s", tt.to, d, tt.want)
		}
		if would := map[string]policy.Verdict{"billing/y": policy.Allow, "payments": policy.Deny}; d.Shadow != nil && d.Shadow.Verdict != would[tt.to] {
			t.Errorf("%s: %+v", tt.to, d.Shadow)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		e.Authorize(t.Context(), request(t, func(r *policy.Request) { r.Destination = "other" }))
	}); n > 5 { // those of the request
		t.Errorf("%v allocations", n)
	}
}
