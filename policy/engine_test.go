package policy_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/intramesh/mesh/policy"
)

func TestNothingReceivedDenies(t *testing.T) {
	for name, e := range map[string]*policy.Engine{"nil": nil, "zero": new(policy.Engine)} {
		d := e.Authorize(t.Context(), request(t, nil))
		want := policy.Decision{Verdict: policy.Deny, Rule: -1, Reason: "no rules have been received yet"}
		if d != want {
			t.Errorf("%s engine: %+v", name, d)
		}
		if x := e.Explain(t.Context(), request(t, nil)); x.Decision != want || len(x.Policies) != 0 {
			t.Errorf("%s engine explains %+v", name, x)
		}
		if e.Version() != 0 {
			t.Errorf("%s engine has version %d", name, e.Version())
		}
	}
}

func TestEveryDecisionFailsClosed(t *testing.T) {
	e := engine(t, doc("all", "*", "allow", `"rules":[{}]`))
	for name, change := range map[string]func(*policy.Request){
		"no destination": func(r *policy.Request) { r.Destination = "" },
		"unknown layer":  func(r *policy.Request) { r.Layer = 9 },
	} {
		if d := e.Authorize(t.Context(), request(t, change)); d.Verdict != policy.Deny || d.Reason == "" {
			t.Errorf("%s: %v", name, d)
		}
	}
	if d := engine(t).Authorize(t.Context(), request(t, nil)); d.Verdict != policy.Deny {
		t.Errorf("no documents: %v", d)
	}
	if d := engine(t, doc("none", "payments", "allow", "")).Authorize(t.Context(), request(t, nil)); d.Verdict != policy.Deny {
		t.Errorf("an allow without rules: %v", d)
	}
	e = engine(t, doc("all", "*", "allow", `"rules":[{}]`), doc("none", "payments", "deny", ""))
	if d := e.Authorize(t.Context(), request(t, nil)); d.Verdict != policy.Allow {
		t.Errorf("a deny without rules: %v", d)
	}
}

func TestDestinations(t *testing.T) {
	tests := []struct {
		service  string
		yes, not []string
	}{
		{"billing", []string{"billing"}, []string{"billing/a", "billin", "billings", "Billing"}},
		{"billing/*", []string{"billing/a", "billing/a/b"}, []string{"billing", "billings/a", "a/billing/b"}},
		{"billing/a/*", []string{"billing/a/b"}, []string{"billing/a", "billing/b/a"}},
		{"*", []string{"billing", "billing/a"}, nil},
	}
	for _, tt := range tests {
		for _, also := range []string{"", doc("other", "billing/x/*", "allow", `"rules":[{"to":[{"ports":["none"]}]}]`)} {
			e := engine(t, doc("p", tt.service, "allow", `"rules":[{}]`), also)
			for _, dst := range append(tt.yes, tt.not...) {
				d := e.Authorize(t.Context(), request(t, func(r *policy.Request) { r.Destination = dst }))
				want := policy.Deny
				for _, y := range tt.yes {
					if y == dst {
						want = policy.Allow
					}
				}
				if d.Verdict != want {
					t.Errorf("%s for %s: %v", tt.service, dst, d)
				}
			}
		}
	}
}

// TestManyRulesForOneCaller has enough of them to be found by path.
func TestManyRulesForOneCaller(t *testing.T) {
	const from = `{"from":[{"services":["orders"]}],"to":[`
	var rules []string
	for i := range 40 {
		rules = append(rules, fmt.Sprintf(from+`{"paths":["/p%d"]},{"methods":["GET"],"paths":["/g%d"]}]}`, i, i))
	}
	exact := `"rules":[` + strings.Join(rules, ",")
	tests := []struct {
		name, more string
		r          *policy.Request
		rule       int // of the allow; -1 for none
		deny       bool
	}{
		{"by path", "", httpRequest(t, "POST", "/p17"), 17, true},
		{"by path and method", "", httpRequest(t, "GET", "/g39"), 39, true},
		{"other method", "", httpRequest(t, "POST", "/g39"), -1, false},
		{"no such path", "", httpRequest(t, "GET", "/p40"), -1, false},
		{"path not known", "", httpRequest(t, "GET", ""), -1, true},
		{"deferred", "", deferred(t), 0, false},
		{"connection", "", request(t, nil), -1, true},
		{"gRPC", "", grpcCall(t, "a.B/C"), -1, true},
		{"prefix beside", "," + from + `{"paths":["/x","/q/*"]}]}`, httpRequest(t, "GET", "/q/1"), 40, true},
		{"template beside", "," + from + `{"paths":["/{a}/1"]}]}`, httpRequest(t, "GET", "/q/1"), 40, true},
		{"operation without path beside", "," + from + `{"paths":["/x"]},{"methods":["PUT"]}]}`, httpRequest(t, "PUT", "/q/1"), 40, true},
		{"any request beside", `,{"from":[{"services":["orders"]}]}`, httpRequest(t, "PUT", "/q/1"), 40, true},
		{"many paths beside", "," + from + `{"paths":["/1","/2","/3","/4","/5","/6","/7","/8","/9"]}]}`, httpRequest(t, "GET", "/9"), 40, true},
	}
	for _, tt := range tests {
		spec := exact + tt.more + "]"
		d := engine(t, doc("p", "payments", "allow", spec)).Authorize(t.Context(), tt.r)
		if d.Rule != tt.rule || (d.Verdict == policy.Allow) != (tt.rule >= 0) {
			t.Errorf("%s: allow: %v, want rule %d", tt.name, d, tt.rule)
		}
		d = engine(t, doc("all", "payments", "allow", `"rules":[{}]`), doc("p", "payments", "deny", spec)).Authorize(t.Context(), tt.r)
		if (d.Verdict == policy.Deny) != tt.deny {
			t.Errorf("%s: deny: %v", tt.name, d)
		}
	}
}

func TestPrecedence(t *testing.T) {
	allow := doc("allow", "payments", "allow", `"rules":[{"from":[{"services":["orders"]}]}]`)
	tests := []struct {
		name, want string
		docs       []string
	}{
		{"deny wins", "deny by deny[0]", []string{allow, doc("deny", "payments", "deny", `"rules":[{}]`)}},
		{"deny wins from wider", "deny by deny[1]", []string{allow, doc("deny", "*", "deny", `"rules":[{"from":[{"services":["x"]}]},{}]`)}},
		{"allow from wider", "allow by wide[0]", []string{doc("wide", "*", "allow", `"rules":[{}]`), doc("x", "payments", "allow", "")}},
		{"narrow names the decision", "allow by allow[0]", []string{doc("wide", "*", "allow", `"rules":[{}]`), allow}},
		{"exact source names it", "allow by allow[0]", []string{doc("any", "payments", "allow", `"rules":[{}]`), allow}},
		{"first of two", "allow by a[1]", []string{
			doc("a", "payments", "allow", `"rules":[{"to":[{"ports":["x"]}]},{}]`), doc("b", "payments", "allow", `"rules":[{}]`),
		}},
		{"audit decides nothing", "deny:", []string{doc("audit", "payments", "audit", `"rules":[{}]`)}},
		{"dry run allows nothing", "deny:", []string{doc("dry", "payments", "allow", `"mode":"dryrun","rules":[{}]`)}},
		{"dry run denies nothing", "allow by allow[0]", []string{allow, doc("dry", "payments", "deny", `"mode":"dryrun","rules":[{}]`)}},
	}
	for _, tt := range tests {
		d := engine(t, tt.docs...).Authorize(t.Context(), request(t, nil))
		if !strings.HasPrefix(d.String(), tt.want) || d.Version != 7 {
			t.Errorf("%s: got %v of v%d, want %s", tt.name, d, d.Version, tt.want)
		}
	}
}

// TestDeferred is about connections whose requests are decided one by one.
func TestDeferred(t *testing.T) {
	post := doc("post", "payments", "allow", `"rules":[{"from":[{"services":["orders"]}],"to":[{"ports":[""],"methods":["POST"],"paths":["/charge"]}],`+
		`"when":[{"key":"request.header.x-tenant","values":["a"]}]}]`)
	with := func(deny string) []string {
		return []string{post, doc("deny", "payments", "deny", `"rules":[`+deny+`]`)}
	}
	tests := []struct {
		name string
		docs []string
		r    *policy.Request
		want policy.Verdict
	}{
		{"some request could pass", []string{post}, deferred(t), policy.Allow},
		{"a raw connection could not", []string{post}, request(t, nil), policy.Deny},
		{"other caller", []string{post}, request(t, func(r *policy.Request) { r.Deferred, r.Source = true, id(t, "x") }), policy.Deny},
		{"no identity", []string{post}, request(t, func(r *policy.Request) { r.Deferred, r.Source = true, id(t, "") }), policy.Deny},
		{"other port", []string{post}, request(t, func(r *policy.Request) { r.Deferred, r.Port = true, "admin" }), policy.Deny},
		{"denied by request later", with(`{"to":[{"paths":["/admin"]}]}`), deferred(t), policy.Allow},
		{"denied by header later", with(`{"when":[{"key":"request.header.a","notValues":["b"]}]}`), deferred(t), policy.Allow},
		{"denied now", with(`{"from":[{"services":["orders"]}]}`), deferred(t), policy.Deny},
		{"denied by address now", with(`{"when":[{"key":"source.ip","values":["10.0.0.0/8"]}]}`), deferred(t), policy.Deny},
		{"no identity to deny", with(`{"from":[{"services":["evil"]}]}`), request(t, func(r *policy.Request) { r.Deferred, r.Source = true, id(t, "") }), policy.Deny},
		{"deferred is of connections only", []string{post}, request(t, func(r *policy.Request) {
			r.Deferred, r.Layer, r.Method, r.Path = true, policy.LayerHTTP, "GET", "/charge"
		}), policy.Deny},
	}
	for _, tt := range tests {
		if d := engine(t, tt.docs...).Authorize(t.Context(), tt.r); d.Verdict != tt.want {
			t.Errorf("%s: %v", tt.name, d)
		}
	}
}

func TestReasons(t *testing.T) {
	calls := doc("calls", "payments", "allow", `"rules":[{"from":[{"services":["orders"]}],"to":[{"methods":["GET"]},{"grpc":["a.B/C"]}]}]`)
	tests := []struct {
		name, want string
		docs       []string
		r          *policy.Request
	}{
		{"nothing for the service", "no policy allows anybody to call payments", nil, request(t, nil)},
		{"dry run only", "no policy allows anybody to call payments (1 policy is in dry run)",
			[]string{doc("p", "payments", "allow", `"mode":"dryrun"`)}, request(t, nil)},
		{"other caller", "payments has 1 allow policy, none for invoices", []string{calls}, source(t, "invoices")},
		{"other trust domain", "payments has 2 allow policies, none for spiffe://b.example/orders",
			[]string{calls, doc("q", "payments", "allow", "")}, source(t, "spiffe://b.example/orders")},
		{"other port", "payments has 1 allow policy, none for x on port admin", []string{calls},
			request(t, func(r *policy.Request) { r.Source, r.Port = id(t, "x"), "admin" })},
		{"no identity", "payments has 1 allow policy, none for a caller without an identity", []string{calls}, source(t, "")},
		{"method and path", "orders may call payments, but no rule allows POST /admin", []string{calls}, httpRequest(t, "POST", "/admin")},
		{"grpc", "orders may call payments, but no rule allows a.B/D", []string{calls}, grpcCall(t, "a.B/D")},
		{"raw listener", "the rules that allow orders decide by request, and this listener sees connections only", []string{calls}, request(t, nil)},
		{"control characters", "orders may call payments, but no rule allows POST /?[31m?", []string{calls}, httpRequest(t, "POST", "/\x1b[31m\n")},
		{"deny rule", "a rule matches", []string{doc("d", "payments", "deny", `"rules":[{}]`)}, request(t, nil)},
		{"deny rule, path not known", "a rule needs the path, which is not known when a connection is accepted",
			[]string{doc("d", "payments", "deny", `"rules":[{"to":[{"paths":["/admin"]}]}]`)}, request(t, nil)},
		{"deny rule, caller not known", "a rule needs the caller, which is not known when a connection is accepted",
			[]string{doc("d", "payments", "deny", `"rules":[{"from":[{"services":["x"]}]}]`)}, source(t, "")},
		{"deny rule, method of gRPC", "a rule needs the method, which is not known of this gRPC call",
			[]string{doc("d", "payments", "deny", `"rules":[{"to":[{"methods":["GET"]}]}]`)}, grpcCall(t, "a.B/C")},
	}
	for _, tt := range tests {
		d := engine(t, tt.docs...).Authorize(t.Context(), tt.r)
		if d.Reason != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, d.Reason, tt.want)
		}
	}
	long := engine(t, calls).Authorize(t.Context(), httpRequest(t, "POST", "/"+strings.Repeat("a", 100_000)))
	if len(long.Reason) > 1000 {
		t.Errorf("the reason repeats %d bytes of what the peer sent", len(long.Reason))
	}
}

func TestShadow(t *testing.T) {
	enforced := doc("enforced", "payments", "allow", `"rules":[{"from":[{"services":["orders"]}]}]`)
	audit := doc("audit", "*", "audit", `"rules":[{"from":[{"services":["x"]}]},{"to":[{"ports":[""]}]}]`)
	dryDeny := doc("dry-deny", "payments", "deny", `"mode":"dryrun","rules":[{"from":[{"services":["orders"]}]}]`)
	dryAllow := doc("dry-allow", "payments", "allow", `"mode":"dryrun","rules":[{"from":[{"services":["invoices"]}]}]`)
	deny := doc("deny", "payments", "deny", `"rules":[{}]`)
	m := func(name string, rule int, a policy.Action, mode policy.Mode) policy.Match {
		return policy.Match{Policy: name, Rule: rule, Action: a, Mode: mode}
	}
	audited := m("audit", 1, policy.ActionAudit, policy.ModeEnforce)
	denied := m("dry-deny", 0, policy.ActionDeny, policy.ModeDryRun)
	allowed := m("dry-allow", 0, policy.ActionAllow, policy.ModeDryRun)
	tests := []struct {
		name    string
		docs    []string
		from    string
		verdict policy.Verdict
		shadow  *policy.Shadow
	}{
		{"none there", []string{enforced}, "orders", policy.Allow, nil},
		{"none matches", []string{enforced, dryDeny}, "invoices", policy.Deny, nil},
		{"audit of an allow", []string{enforced, audit}, "orders", policy.Allow, &policy.Shadow{Verdict: policy.Allow, Matches: []policy.Match{audited}}},
		{"audit of a denial", []string{enforced, audit}, "x", policy.Deny, &policy.Shadow{Verdict: policy.Deny, Matches: []policy.Match{m("audit", 0, policy.ActionAudit, policy.ModeEnforce), audited}}},
		{"would deny", []string{enforced, dryDeny}, "orders", policy.Allow, &policy.Shadow{Verdict: policy.Deny, Matches: []policy.Match{denied}}},
		{"would allow", []string{enforced, dryAllow}, "invoices", policy.Deny, &policy.Shadow{Verdict: policy.Allow, Matches: []policy.Match{allowed}}},
		{"an enforced deny stays", []string{deny, dryAllow}, "invoices", policy.Deny, &policy.Shadow{Verdict: policy.Deny, Matches: []policy.Match{allowed}}},
		{"narrow first, wide next", []string{enforced, audit, dryDeny}, "orders", policy.Allow, &policy.Shadow{Verdict: policy.Deny, Matches: []policy.Match{denied, audited}}},
	}
	for _, tt := range tests {
		d := engine(t, tt.docs...).Authorize(t.Context(), source(t, tt.from))
		if d.Verdict != tt.verdict || !reflect.DeepEqual(d.Shadow, tt.shadow) {
			t.Errorf("%s: %v with shadow %+v, want %v and %+v", tt.name, d, d.Shadow, tt.verdict, tt.shadow)
		}
	}
}

func TestExplain(t *testing.T) {
	e := engine(t,
		doc("elsewhere", "invoices", "allow", `"rules":[{}]`),
		doc("callers", "payments", "allow", `"rules":[{"from":[{"services":["x"]}]},{"to":[{"methods":["POST"],"paths":["/charge"]}]},{"from":[{"notServices":["orders"]}]}]`),
		doc("empty", "*", "allow", ""),
		doc("admin", "payments", "deny", `"rules":[{"to":[{"grpc":["a.B/C"]}]},{"to":[{"ports":["admin"]}]}]`),
	)
	x := e.Explain(t.Context(), httpRequest(t, "POST", "/admin"))
	got, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"decision":{"verdict":"deny","layer":"http","policy":"admin","rule":0,"version":7,` +
		`"reason":"a rule needs the gRPC method, which is not known of this HTTP request"},"policies":[` +
		`{"policy":"callers","action":"allow","mode":"enforce","matched":false,"rules":[` +
		`{"matched":false,"why":"the caller does not match"},{"matched":false,"why":"the path does not match"},{"matched":false,"why":"the caller is one of those left out"}]},` +
		`{"policy":"empty","action":"allow","mode":"enforce","matched":false,"rules":[]},` +
		`{"policy":"admin","action":"deny","mode":"enforce","matched":true,"rules":[` +
		`{"matched":true,"why":"the gRPC method is not known of this HTTP request"},{"matched":false,"why":"the port does not match"}]}]}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	x = e.Explain(t.Context(), request(t, nil))
	if why := x.Policies[0].Rules[1].Why; why != "the method is not known when a connection is accepted" {
		t.Errorf("an allow that needs the method says %q", why)
	}
}

// A request that is not gRPC is told of its path, not of a gRPC method, and the other way round.
func TestExplainNamesWhatTheRequestHas(t *testing.T) {
	e := engine(t, doc("p", "payments", "allow", `"rules":[{"to":[{"methods":["POST"],"paths":["/charge"]},{"grpc":["a.B/C"]}]},{"to":[{"grpc":["a.B/C"]}]},{"to":[{"paths":["/charge"]}]}]`))
	for want, r := range map[string]*policy.Request{
		"the path does not match; the gRPC method is not known of this HTTP request; the path does not match": httpRequest(t, "POST", "/x"),
		"the gRPC method does not match; the gRPC method does not match; the path is not known of this gRPC call": request(t, func(r *policy.Request) {
			r.Layer, r.GRPCMethod = policy.LayerGRPC, "a.B/D"
		}),
	} {
		var why []string
		for _, rule := range e.Explain(t.Context(), r).Policies[0].Rules {
			why = append(why, rule.Why)
		}
		if got := strings.Join(why, "; "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAllowAllocatesNothing(t *testing.T) {
	e := engine(t, full, doc("other", "*", "deny", `"rules":[{"from":[{"services":["evil"]}]},{"when":[{"key":"request.header.x-bad","values":["*"]}]}]`),
		doc("dry", "payments", "deny", `"mode":"dryrun","rules":[{"from":[{"services":["evil"]}]}]`),
		doc("web", "payments", "allow", `"rules":[{"from":[{"services":["orders"]}],"to":[{"methods":["POST"],"paths":["/v1/{id}/refund"]},{"ports":["raw"]}]}]`))
	for name, r := range map[string]*policy.Request{
		"http":       httpRequest(t, "POST", "/v1/7/refund"),
		"connection": request(t, func(r *policy.Request) { r.Deferred = true }),
	} {
		var d policy.Decision
		n := testing.AllocsPerRun(100, func() { d = e.Authorize(t.Context(), r) })
		if d.Verdict != policy.Allow || n != 0 {
			t.Errorf("%s: %v with %v allocations", name, d, n)
		}
	}
}
