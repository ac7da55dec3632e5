package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"strconv"
	"sync/atomic"
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

// many makes a list of exact values long, sometimes: long ones are matched in another way.
func (d dice) many(prefix string, list []string) []string {
	if list != nil && d.IntN(15) == 0 {
		for i := range 10 {
			list = append(list, fmt.Sprint(prefix, i))
		}
	}
	return list
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
			Services: d.many("m", d.some(0.7, services...)), NotServices: d.some(0.2, services...),
			TrustDomains: d.some(0.2, "prod.example", "b.example", "*"), NotTrustDomains: d.some(0.1, "prod.example", "b.example", "*"),
			IPs: d.some(0.2, ips...), NotIPs: d.some(0.1, ips...),
		}
		if s.Services != nil || s.NotServices != nil {
			r.From = append(r.From, s)
		}
	}
	for d.Float64() < 0.4 {
		o := policy.Operation{
			Ports: d.some(0.5, ports...), Methods: d.many("M", d.some(0.4, "GET", "POST", "*", "P*")), Hosts: d.some(0.1, "a", "*a", "c"),
			Paths: d.many("/m", d.some(0.4, "/", "/x", "/x/*", "*", "*y", "/{a}/y", "/x/{a...}", "/{a}")), GRPC: d.some(0.2, "s/M", "s/*", "*/M", "*"),
		}
		if o.Ports != nil || o.Methods != nil {
			r.To = append(r.To, o)
		}
	}
	for d.Float64() < 0.3 {
		var c policy.Condition
		words := []string{"", "1", "1*", "*2", "*"}
		switch d.IntN(4) {
		case 0:
			c = policy.Condition{Key: "source.ip", Values: d.some(0.5, ips...), NotValues: d.some(0.5, ips...)}
		case 1:
			c = policy.Condition{Key: "destination.port", Values: d.some(0.5, ports...), NotValues: d.some(0.5, ports...)}
		case 2:
			c = policy.Condition{Key: d.pick("request.jwt.claim.role", "request.jwt.claim.of.x", "request.jwt.claim.role[]", "request.jwt.claim.of.x[]"), Values: d.some(0.5, words...), NotValues: d.some(0.5, words...)}
		default:
			words = append(words, "1, 2", "1,*")
			c = policy.Condition{Key: "request.header.x", Values: d.many("1,", d.some(0.5, words...)), NotValues: d.many("1,", d.some(0.5, words...))}
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
		"spiffe://prod.example/a/b", "spiffe://prod.example/a/b/c", "spiffe://prod.example/m3", "spiffe://b.example/a", "spiffe://b.example/a/b"); s != "" {
		r.Source = spiffeid.RequireFromString(s)
	}
	if s := d.pick("", "10.1.1.1", "10.2.0.1", "::ffff:10.1.1.1", "::1", "fe80::1%lo", "192.0.2.1"); s != "" {
		r.SourceAddr = netip.MustParseAddr(s)
	}
	switch r.Layer {
	case policy.LayerHTTP:
		r.Method, r.Path, r.Host = d.pick("GET", "POST", "PUT", "M3", ""), d.pick("/", "/x", "/x/", "/x/y", "/z/y", "/x/y/y", "/m3", "", "x"), d.pick("a", "c", "ca", "")
	case policy.LayerGRPC:
		r.GRPCMethod = d.pick("s/M", "s/N", "t/M", "/s/M", "")
		if lines := d.some(0.3, "", "1", "12", "2", "1, 2"); lines != nil {
			r.Header["x"] = lines
		}
	default:
		return r
	}
	if lines := d.some(0.7, "", "1", "12", "2", "1, 2", "1,3", "12,1 ,2", "2,"); lines != nil {
		r.Header["X"] = lines
	}
	if d.IntN(10) == 0 {
		r.Header = nil
	}
	if d.IntN(3) > 0 {
		r.Claims = map[string]any{"of": map[string]any{"x": d.claim()}, "role": d.claim()}
	}
	return r
}

// claim is a value, several, none, or one that can't be compared.
func (d dice) claim() any {
	switch d.IntN(5) {
	case 0:
		return nil
	case 1:
		return map[string]any{}
	case 2:
		list := []any{}
		for _, s := range d.some(0.9, "", "1", "12", "2") {
			list = append(list, s)
		}
		return list
	}
	return d.pick("", "1", "12", "2")
}

// differ builds rules from a seed and compares the engine with the naive evaluator.
func differ(t *testing.T, seed uint64, requests int) (allowed int) {
	t.Helper()
	d := dice{rand.New(rand.NewPCG(seed, 1))}
	docs := make([]policy.Document, d.IntN(8))
	for i := range docs {
		docs[i] = d.document(fmt.Sprint("p", i))
	}
	for _, service := range []string{"*", "a", "a/*", "a/b"} {
		if d.IntN(8) == 0 {
			spec := &policy.DefaultSpec{Service: service, Verdict: policy.Action(d.pick("allow", "deny", "")), Denials: policy.Denials(d.pick("explained", "bare", ""))}
			if spec.Verdict == "" && spec.Denials == "" {
				spec.Denials = policy.DenialsBare
			}
			docs = append(docs, policy.Document{
				APIVersion: policy.APIVersion, Kind: policy.KindDefault, Metadata: policy.Metadata{Name: "default-" + strconv.Itoa(len(docs))}, Default: spec,
			})
		}
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
		pinned := policy.Pinned(e, &policy.Request{Source: r.Source, SourceAddr: r.SourceAddr, Destination: r.Destination, Port: r.Port, Deferred: r.Deferred})
		if again := pinned.Authorize(t.Context(), r); !reflect.DeepEqual(again, got) {
			fail(fmt.Sprintf("pinned, it is %+v", again))
		}
		if got.Verdict != want || (got.Rule < 0) != byDefault {
			fail("verdict")
		}
		if got.Tell != n.tells(r) {
			fail("what callers are told")
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

// TestEngineAgreesWithNaiveEvaluator makes 200,000 decisions, and with MESH_NIGHTLY=1 ten million others.
func TestEngineAgreesWithNaiveEvaluator(t *testing.T) {
	const each = 50
	first, sets := uint64(0), 200_000/each
	if os.Getenv("MESH_NIGHTLY") != "" {
		first, sets = rand.Uint64(), 10_000_000/each
	}
	t.Logf("seeds from %d", first)
	var allowed atomic.Int64
	var next atomic.Uint64
	for range runtime.GOMAXPROCS(0) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for i := next.Add(1); i <= uint64(sets) && !t.Failed(); i = next.Add(1) {
				allowed.Add(int64(differ(t, first+i, each)))
			}
		})
	}
	t.Cleanup(func() { // after the parallel ones
		if share := float64(allowed.Load()) / float64(sets*each); share < 0.2 || share > 0.8 {
			t.Errorf("%.2f of the decisions were allow: the documents no longer tell much", share)
		}
	})
}

func FuzzEngineAgreesWithNaiveEvaluator(f *testing.F) {
	f.Add(uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64) { differ(t, seed, 20) })
}
