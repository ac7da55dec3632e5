package policyimport_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/policyimport"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const ownDomain = "mesh.example"

// TestIstioNeverWider makes policies at random, of fields and values that make sense and of some that do not, and
// compares what the translation allows with what a plain evaluator of the source does.
func TestIstioNeverWider(t *testing.T) {
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	var agree, narrower, denied, refused int
	for seed := range rounds {
		g := istioGen{rand.New(rand.NewPCG(uint64(seed), 1))}
		policies := g.policies()
		var text []byte
		for _, p := range policies {
			data, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			text = append(append(text, data...), '\n')
		}
		cfg := policyimport.IstioConfig{Service: "{namespace}/{app}", Ports: map[string]string{"8080": "web", "9090": ""}}
		if g.IntN(4) == 0 {
			cfg.Caller = "k8s/{namespace}/{serviceaccount}"
		}
		r, err := policyimport.Istio([]policyimport.File{{Name: "in.json", Data: text}}, cfg)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		if r.Widens() {
			refused++
			continue
		}
		engine := compile(t, r)
		for range 60 {
			q := g.request()
			d := engine.Authorize(t.Context(), q.ours(cfg))
			source := istioAllows(policies, q)
			switch {
			case d.Verdict == policy.Allow && !source:
				t.Fatalf("seed %d: wider, by %v\nrequest: %+v\n%s\n%s", seed, d, q, text, yamlOf(t, r))
			case d.Verdict == policy.Allow:
				agree++
			case source:
				narrower++
			default:
				denied++
			}
		}
	}
	t.Logf("both allow %d, only the source %d, both deny %d; %d imports refused", agree, narrower, denied, refused)
	if agree < rounds {
		t.Errorf("only %d requests were allowed by both: the test says little", agree)
	}
}

func compile(t *testing.T, r *policyimport.Result) *policy.Engine {
	t.Helper()
	docs := make([]policy.Document, len(r.Documents))
	for i, d := range r.Documents {
		docs[i] = d.Document
	}
	e, err := policy.Static(spiffeid.RequireTrustDomainFromString(ownDomain), docs...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func yamlOf(t *testing.T, r *policyimport.Result) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteYAML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// ours is the request as a member sees it.
func (r *istioRequest) ours(cfg policyimport.IstioConfig) *policy.Request {
	path, td := r.path, r.trustDomain
	if td == "cluster.local" {
		td = ownDomain
	}
	if parts := strings.Split(path, "/"); cfg.Caller != "" && len(parts) == 4 {
		path = "k8s/" + parts[1] + "/" + parts[3]
	}
	q := &policy.Request{
		Source:      spiffeid.RequireFromString("spiffe://" + td + "/" + path),
		SourceAddr:  netip.MustParseAddr(r.ip),
		Destination: r.namespace + "/" + r.app,
		Port:        map[string]string{"8080": "web", "9090": "", "7070": "other"}[r.port],
	}
	if r.tcp {
		return q
	}
	q.Layer, q.Method, q.Path, q.Host, q.Header, q.Claims = policy.LayerHTTP, r.method, r.url, r.host, map[string][]string{}, r.claims
	for name, lines := range r.headers {
		for _, l := range lines {
			q.Header[canonicalName(name)] = append(q.Header[canonicalName(name)], l)
		}
	}
	if strings.HasPrefix(r.url, "/pay.v1.Payments/") {
		q.Layer, q.GRPCMethod = policy.LayerGRPC, r.url[1:]
		q.Method, q.Path, q.Host = "", "", ""
	}
	return q
}

func canonicalName(s string) string {
	parts := strings.Split(s, "-")
	for i, p := range parts {
		parts[i] = strings.ToUpper(p[:1]) + p[1:]
	}
	return strings.Join(parts, "-")
}

type istioGen struct{ *rand.Rand }

func (g istioGen) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g istioGen) some(list ...string) []string {
	out := make([]string, 1+g.IntN(2))
	for i := range out {
		out[i] = g.pick(list...)
	}
	return out
}

func (g istioGen) policies() []istioPolicy {
	out := make([]istioPolicy, 1+g.IntN(4))
	for i := range out {
		p := istioPolicy{APIVersion: "security.istio.io/v1", Kind: "AuthorizationPolicy"}
		p.Metadata = istioMeta{fmt.Sprintf("p%d", i), g.pick("foo", "foo", "foo", "bar", istioRoot)}
		p.Spec.Action = g.pick("", "ALLOW", "ALLOW", "ALLOW", "DENY", "DENY", "AUDIT")
		if p.Metadata.Namespace != istioRoot && g.IntN(5) > 0 {
			p.Spec.Selector = &istioSelector{map[string]string{"app": g.pick("a", "b")}}
			if g.IntN(6) == 0 {
				p.Spec.Selector.MatchLabels["version"] = "v1"
			}
		}
		p.Spec.Rules = make([]istioRule, g.IntN(3))
		if i == 0 {
			p.Spec.Rules = make([]istioRule, 2)
		}
		for k := range p.Spec.Rules {
			p.Spec.Rules[k] = g.rule()
		}
		out[i] = p
	}
	return out
}

func (g istioGen) rule() istioRule {
	var r istioRule
	for range g.IntN(3) {
		r.From = append(r.From, istioFrom{g.fields(g.source)})
	}
	for range g.IntN(3) {
		r.To = append(r.To, istioTo{g.fields(g.operation)})
	}
	if g.IntN(3) == 0 {
		for range 1 + g.IntN(2) {
			r.When = append(r.When, g.condition())
		}
	}
	return r
}

func (g istioGen) fields(one func() (string, []string)) map[string][]string {
	m := make(map[string][]string)
	for range 1 + g.IntN(2) {
		name, values := one()
		m[name] = values
	}
	return m
}

func (g istioGen) source() (string, []string) {
	not := ""
	if g.IntN(4) == 0 {
		not = "not"
	}
	name := func(s string) string {
		if not != "" {
			return not + strings.ToUpper(s[:1]) + s[1:]
		}
		return s
	}
	switch g.IntN(10) {
	default:
		return name("principals"), g.some("cluster.local/ns/default/sa/sleep", "cluster.local/ns/test/sa/web", "cluster.local/ns/test/*", "cluster.local/*",
			"other.example/ns/default/sa/sleep", "other.example/*", "*", "*/sa/sleep", "*/ns/test/sa/web", "*sleep", "cluster.local/ns/te*", "clu*", "nonsense")
	case 0, 1, 2:
		return name("namespaces"), g.some("test", "default", "ops", "*", "te*", "*st")
	case 3:
		return name("serviceAccounts"), g.some("test/web", "default/sleep")
	case 4, 5:
		return name("ipBlocks"), g.some("10.0.0.0/8", "10.1.2.3/16", "192.0.2.7", "nonsense")
	case 6:
		return name("requestPrincipals"), g.some("https://idp.example/alice", "https://idp.example/*", "*", "*/alice", "https://idp.example/x/bob")
	case 7:
		if g.IntN(3) > 0 {
			return name("namespaces"), g.some("test", "default")
		}
		return name("remoteIpBlocks"), g.some("10.0.0.0/8")
	}
}

func (g istioGen) operation() (string, []string) {
	not := g.IntN(4) == 0
	name := func(s string) string {
		if not {
			return "not" + strings.ToUpper(s[:1]) + s[1:]
		}
		return s
	}
	switch g.IntN(7) {
	default:
		return name("paths"), g.some("/admin", "/admin*", "/admin/*", "/public/*", "*", "*/info", "/v1/{*}/x", "/v1/{**}", "/v1/{*}/{**}", "/v1/{id}/x", "/{**}/x", "/a/*/b",
			"/pay.v1.Payments/Charge", "/pay.v1.Payments/*", "/a%20b", "/v1/{id}", "/*")
	case 0, 1:
		return name("methods"), g.some("GET", "POST", "P*", "*", "*T", "get", "FROB")
	case 2:
		return name("ports"), g.some("8080", "9090", "7070")
	case 3:
		return name("hosts"), g.some("Pay.Example", "*.example", "pay.example:8080", "pay.example:*", "*")
	}
}

func (g istioGen) condition() istioCondition {
	c := istioCondition{}
	var values []string
	switch g.IntN(8) {
	default:
		c.Key = g.pick("request.headers[x-tenant]", "request.headers[x-other]", "request.headers[host]", "request.headers[x-forwarded-client-cert]")
		values = g.some("a", "b", "a*", "*b", "*", "a,b", "a,*", "")
	case 0, 1:
		c.Key = g.pick("request.auth.claims[role]", "request.auth.claims[scope]", "request.auth.claims[level]", "request.auth.audiences", "request.auth.presenter")
		values = g.some("admin", "a*", "*", "5", "read", "true", "*n")
	case 2:
		c.Key, values = "source.namespace", g.some("test", "default", "*")
	case 3:
		c.Key, values = "source.principal", g.some("cluster.local/ns/test/sa/web", "cluster.local/ns/default/*", "*", "*/sa/web")
	case 4:
		c.Key, values = g.pick("source.ip", "remote.ip"), g.some("10.0.0.0/8", "192.0.2.7")
	case 5:
		c.Key, values = g.pick("connection.sni"), g.some("x", "*")
	case 6:
		c.Key, values = "request.auth.principal", g.some("https://idp.example/alice", "*")
	case 7:
		c.Key, values = "destination.port", g.some("8080", "9090", "7070")
	}
	if g.IntN(3) == 0 {
		c.NotValues = values
	} else {
		c.Values = values
	}
	return c
}

func (g istioGen) request() *istioRequest {
	r := &istioRequest{
		trustDomain: g.pick("cluster.local", "cluster.local", "cluster.local", "other.example"),
		path:        g.pick("ns/default/sa/sleep", "ns/test/sa/web", "ns/test/sa/batch", "ns/ops/sa/root", "ns/ops/sa/sleep"),
		ip:          g.pick("10.1.9.9", "10.200.0.1", "192.0.2.7"), remote: g.pick("10.9.9.9", "192.0.2.8"), sni: g.pick("", "x"),
		namespace: g.pick("foo", "foo", "bar"), app: g.pick("a", "a", "b"), version: g.pick("v1", "v2"),
		port: g.pick("8080", "9090", "7070"), tcp: g.IntN(8) == 0,
		method: g.pick("GET", "POST", "PUT", "FROB"), host: g.pick("pay.example", "a", "b.example"),
		url:     g.pick("/admin", "/admin/x", "/administrator", "/public/info", "/public/", "/v1/7/x", "/v1/", "/v1/7/", "/v1/{id}", "/v1/{id}/x", "/a/*/b", "/a/z/b", "/pay.v1.Payments/Charge", "/pay.v1.Payments/Refund"),
		headers: map[string][]string{},
	}
	if strings.HasPrefix(r.url, "/pay.v1.Payments/") {
		r.method = "POST"
	}
	// A line that comes twice is for Envoy another value than once, and here the same: that is told in the documentation.
	switch g.IntN(5) {
	case 0:
		r.headers["x-tenant"] = []string{g.pick("a", "b", "ab", "c")}
	case 1:
		r.headers["x-tenant"] = []string{"a", "b"}
	case 2:
		r.headers["x-other"] = []string{g.pick("a", "b", "a,b")}
	}
	if g.IntN(2) == 0 {
		r.claims = map[string]any{"iss": g.pick("https://idp.example", "https://idp.example/x", "https://other.example"), "sub": g.pick("alice", "bob", "x/bob")}
		switch g.IntN(3) {
		case 0:
			r.claims["role"] = g.pick("admin", "user", "a")
		case 1:
			r.claims["role"] = []any{g.pick("admin", "user"), g.pick("a", "user")}
		}
		if g.IntN(2) == 0 {
			r.claims["scope"] = g.pick("read", "read admin", "a")
			r.claims["level"] = json.Number("5")
			r.claims["aud"] = []any{"admin", g.pick("read", "x")}
			r.claims["azp"] = g.pick("admin", "read")
		} else if g.IntN(2) == 0 {
			r.claims["level"] = true
		}
	}
	return r
}
