package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"testing"

	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// dice makes small documents and requests of few words, so that they often meet.
type dice struct{ *rand.Rand }

func (d dice) pick(words ...string) string { return words[d.IntN(len(words))] }

// some returns nil, mostly, or one to three of the words.
func (d dice) some(chance float64, words ...string) []string {
	if d.Float64() > chance {
		return nil
	}
	out := make([]string, 1+d.IntN(3))
	for i := range out {
		out[i] = d.pick(words...)
	}
	return out
}

func (d dice) document(name string) policy.Document {
	doc := policy.Document{APIVersion: policy.APIVersion, Kind: policy.Kind, Metadata: policy.Metadata{Name: name}}
	doc.Spec.Service = d.pick("*", "a", "a", "a/b", "a/*", "a/b/*", "c")
	doc.Spec.Action = policy.Action(d.pick("allow", "allow", "allow", "deny", "audit"))
	doc.Spec.Mode = policy.Mode(d.pick("", "enforce", "enforce", "dryrun"))
	rules := d.IntN(4)
	if d.IntN(20) == 0 {
		rules = 40 // for one source, enough to be indexed once more
	}
	for range rules {
		doc.Spec.Rules = append(doc.Spec.Rules, d.rule())
	}
	return doc
}

func (d dice) rule() policy.Rule {
	var r policy.Rule
	for d.Float64() < 0.5 {
		s := policy.Source{
			Services: d.some(0.7, services...), NotServices: d.some(0.2, services...),
			TrustDomains: d.some(0.2, "prod.example", "b.example", "*"), NotTrustDomains: d.some(0.1, "prod.example", "b.example", "*"),
			IPs: d.some(0.2, ips...), NotIPs: d.some(0.1, ips...),
		}
		if s.Services != nil || s.NotServices != nil {
			r.From = append(r.From, s)
		}
	}
	for d.Float64() < 0.4 {
		o := policy.Operation{
			Ports: d.some(0.5, ports...), Methods: d.some(0.4, "GET", "POST", "*", "P*"), Hosts: d.some(0.1, "a", "*a", "c"),
			Paths: d.some(0.4, "/", "/x", "/x/*", "*", "*y", "/{a}/y", "/x/{a...}", "/{a}"), GRPC: d.some(0.2, "s/M", "s/*", "*/M", "*"),
		}
		if o.Ports != nil || o.Methods != nil {
			r.To = append(r.To, o)
		}
	}
	for d.Float64() < 0.3 {
		var c policy.Condition
		switch d.IntN(3) {
		case 0:
			c = policy.Condition{Key: "source.ip", Values: d.some(0.5, ips...), NotValues: d.some(0.5, ips...)}
		case 1:
			c = policy.Condition{Key: "destination.port", Values: d.some(0.5, ports...), NotValues: d.some(0.5, ports...)}
		default:
			c = policy.Condition{Key: "request.header.x", Values: d.some(0.5, "", "1", "1*", "*2", "*"), NotValues: d.some(0.5, "", "1", "1*", "*2", "*")}
		}
		if c.Values != nil || c.NotValues != nil {
			r.When = append(r.When, c)
		}
	}
	return r
}

var (
	services = []string{"a", "b", "a/b", "a/*", "a/b/*", "*", "b/c"}
	ips      = []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.1.1", "::1", "fe80::/10", "0.0.0.0/0"}
	ports    = []string{"", "web", "web*", "*b", "*"}
)

func (d dice) request() *policy.Request {
	r := &policy.Request{
		Layer: policy.Layer(d.IntN(3)), Deferred: d.IntN(2) == 0,
		Destination: d.pick("a", "a", "a/b", "a/b/c", "c", "d"), Port: d.pick("", "web", "web2"),
		Header: http.Header{},
	}
	if s := d.pick("", "spiffe://prod.example", "spiffe://prod.example/a", "spiffe://prod.example/a", "spiffe://prod.example/b",
		"spiffe://prod.example/a/b", "spiffe://prod.example/a/b/c", "spiffe://b.example/a", "spiffe://b.example/a/b"); s != "" {
		r.Source = spiffeid.RequireFromString(s)
	}
	if s := d.pick("", "10.1.1.1", "10.2.0.1", "::ffff:10.1.1.1", "::1", "fe80::1%lo", "192.0.2.1"); s != "" {
		r.SourceAddr = netip.MustParseAddr(s)
	}
	switch r.Layer {
	case policy.LayerHTTP:
		r.Method, r.Path, r.Host = d.pick("GET", "POST", "PUT"), d.pick("/", "/x", "/x/", "/x/y", "/z/y", "/x/y/y"), d.pick("a", "c", "ca")
	case policy.LayerGRPC:
		r.GRPCMethod = d.pick("s/M", "s/N", "t/M")
	}
	if lines := d.some(0.7, "", "1", "12", "2"); lines != nil && r.Layer != policy.LayerConnection {
		r.Header["X"] = lines
	}
	return r
}

// differ builds rules from a seed and compares the engine with the naive evaluator.
func differ(t *testing.T, seed uint64, requests int) (allowed int) {
	t.Helper()
	d := dice{rand.New(rand.NewPCG(seed, 1))}
	docs := make([]policy.Document, d.IntN(8))
	for i := range docs {
		docs[i] = d.document(fmt.Sprint("p", i))
	}
	e, err := policy.Static(prod, docs...)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	n := naive{prod.Name(), docs}
	byName := make(map[string]*policy.Document)
	for i := range docs {
		byName[docs[i].Metadata.Name] = &docs[i]
	}
	for range requests {
		r := d.request()
		got := e.Authorize(t.Context(), r)
		want, byDefault := n.decide(r)
		fail := func(what string) {
			rules, _ := json.MarshalIndent(docs, "", " ")
			t.Fatalf("seed %d: %s: got %v, want %v (by default: %v) for %+v by\n%s", seed, what, got, want, byDefault, r, rules)
		}
		if got.Verdict != want || (got.Rule < 0) != byDefault {
			fail("verdict")
		}
		if !byDefault && !n.matches(byName[got.Policy], got.Rule, r) {
			fail("the rule it names does not match")
		}
		matches := make(map[policy.Match]bool)
		if got.Shadow != nil {
			for _, m := range got.Shadow.Matches {
				matches[m] = true
			}
		}
		for _, p := range e.Explain(t.Context(), r).Policies {
			for i, rule := range p.Rules {
				m := n.matches(byName[p.Policy], i, r)
				if m != rule.Matched {
					fail("explain of " + p.Policy)
				}
				recorded := p.Action == policy.ActionAudit || p.Mode == policy.ModeDryRun
				if matches[policy.Match{Policy: p.Policy, Rule: i, Action: p.Action, Mode: p.Mode}] != (m && recorded) {
					fail("shadow of " + p.Policy)
				}
			}
		}
		if want == policy.Allow {
			allowed++
		}
	}
	return allowed
}

func TestEngineAgreesWithNaiveEvaluator(t *testing.T) {
	const sets, each = 2000, 50
	allowed := 0
	for seed := range uint64(sets) {
		allowed += differ(t, seed, each)
	}
	if share := float64(allowed) / (sets * each); share < 0.2 || share > 0.8 {
		t.Errorf("%.2f of the decisions were allow: the documents no longer tell much", share)
	}
}

func FuzzEngineAgreesWithNaiveEvaluator(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { differ(t, seed, 20) })
}
