package policy_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/intramesh/mesh/policy"
)

const full = `{"apiVersion":"mesh/v1","kind":"Authorization",` +
	`"metadata":{"name":"payments-callers","labels":{"team":"billing"}},` +
	`"spec":{"service":"payments","action":"allow","mode":"enforce","rules":[{` +
	`"from":[{"services":["orders","checkout/*"],"notServices":["checkout/test"],"trustDomains":["prod.example"],` +
	`"notTrustDomains":["test.example"],"ips":["10.0.0.0/8","::1"],"notIps":["10.1.0.0/16"]}],` +
	`"to":[{"ports":["web"],"methods":["POST"],"paths":["/charge","/v1/*","/v1/{id}/refund"],"hosts":["payments"],` +
	`"grpc":["pay.v1.Payments/Charge","pay.v1.Payments/*"]}],` +
	`"when":[{"key":"request.header.x-tenant","values":["a","b"],"notValues":["c*"]},` +
	`{"key":"source.ip","values":["10.0.0.0/8"]},{"key":"destination.port","notValues":["admin"]}]}]}}`

func TestRoundTrip(t *testing.T) {
	docs := parse(t, full)
	out, err := json.Marshal(docs[0])
	if err != nil {
		t.Fatal(err)
	}
	if string(out) != full {
		t.Errorf("marshalled to\n%s\nwant\n%s", out, full)
	}
	if again := parse(t, string(out)); !reflect.DeepEqual(docs, again) {
		t.Errorf("parsed again to %+v, want %+v", again, docs)
	}
}

func TestParseForms(t *testing.T) {
	a, b, c := doc("a", "x", "allow", ""), doc("b", "x", "allow", `"rules":[]`), doc("c", "x", "deny", `"rules":[{}]`)
	for name, input := range map[string]string{
		"concatenated": a + b + c, "lines": a + "\n\n" + b + "\n" + c + "\n",
		"array": "[" + a + "," + b + "," + c + "]", "mixed": "[" + a + "]\n" + b + "\n[" + c + "]",
	} {
		docs := parse(t, input)
		if len(docs) != 3 || docs[2].Metadata.Name != "c" {
			t.Errorf("%s: got %d documents", name, len(docs))
		}
	}
	for _, input := range []string{"", " \n", "[]"} {
		if docs := parse(t, input); len(docs) != 0 {
			t.Errorf("%q: got %d documents, want none", input, len(docs))
		}
	}
}

// TestParseRefuses has an input for each way to be wrong, and what the error must say.
func TestParseRefuses(t *testing.T) {
	rule := func(s string) string { return doc("p", "payments", "allow", `"rules":[`+s+`]`) }
	from := func(s string) string { return rule(`{"from":[` + s + `]}`) }
	to := func(s string) string { return rule(`{"to":[` + s + `]}`) }
	when := func(s string) string { return rule(`{"when":[` + s + `]}`) }
	long := strings.Repeat("a", policy.MaxValueLen+1)
	many := `"x"` + strings.Repeat(`,"x"`, policy.MaxValues)
	tests := []struct{ name, input, want string }{
		{"syntax", "{\n  \"apiVersion\" 1}", "f:2:16: "},
		{"bad literal", "{\n  \"apiVersion\": tru1}", "f:2:17: "},
		{"cut off", `{"apiVersion":`, "f:1:15: input ends in the middle of a value"},
		{"not UTF-8", "{\n\"a\xff\":1}", "f:2:3: input is not valid UTF-8"},
		{"too deep", strings.Repeat("[", 40), "nested deeper than 16"},
		{"a number", "\n 12", "f:2:2: want object, found number"},
		{"null", "null", "has no value"},
		{"unknown top", `{"apiVersion":"mesh/v1","sepc":{}}`, "f:1:25: sepc: unknown field; the fields here are apiVersion, kind, metadata, spec"},
		{"unknown deep", rule("{\n\"form\":[]}"), "f:2:1: spec.rules[0].form: unknown field"},
		{"wrong case", strings.Replace(rule(`{}`), `"spec"`, `"Spec"`, 1), "Spec: unknown field"},
		{"duplicate key", strings.Replace(rule(`{}`), `"kind"`, "\n\"kind\":\"Authorization\",\"kind\"", 1), "f:2:24: kind: the field is there twice, first on line 2"},
		{"duplicate deny hidden in key", doc("p", "x", "allow", `"action":"deny"`), "spec.action: the field is there twice"},
		{"duplicate name", doc("p", "a", "allow", "") + "\n" + doc("p", "b", "deny", ""), `f:2:67: metadata.name: the name "p" is taken by the document on line 1`},
		{"newer version", strings.Replace(rule(`{}`), "mesh/v1", "mesh/v2", 1), `apiVersion: want "mesh/v1", found "mesh/v2"`},
		{"other kind", strings.Replace(rule(`{}`), "Authorization", "Route", 1), "kind: want"},
		{"no name", doc("", "x", "allow", ""), "metadata.name"},
		{"name with space", doc("a b", "x", "allow", ""), "metadata.name"},
		{"label", strings.Replace(rule(`{}`), `"name":"p"`, `"name":"p","labels":{"a":1}`, 1), "metadata.labels.a: want string, found number"},
		{"no action", doc("p", "x", "", ""), "spec.action: want allow, deny or audit"},
		{"action", doc("p", "x", "permit", ""), "spec.action"},
		{"mode of a newer version", doc("p", "x", "deny", `"mode":"canary"`), "spec.mode: want enforce or dryrun"},
		{"no service", doc("p", "", "allow", ""), "spec.service"},
		{"service slash", doc("p", "/x", "allow", ""), "spec.service"},
		{"service prefix in a segment", doc("p", "bill*", "allow", ""), `did you mean "bill/*"`},
		{"service upper case", doc("p", "Payments", "allow", ""), "spec.service"},
		{"service dots", doc("p", "billing.invoices", "allow", ""), "spec.service"},
		{"service long segment", doc("p", strings.Repeat("a", 64), "allow", ""), "spec.service"},
		{"rules null", doc("p", "x", "allow", `"rules":null`), "spec.rules: has no value"},
		{"rule null", rule("null"), "spec.rules[0]: has no value"},
		{"from empty", rule(`{"from":[]}`), "spec.rules[0].from: an empty list"},
		{"to empty", rule(`{"to":[]}`), "spec.rules[0].to: an empty list"},
		{"source empty", from(`{}`), "spec.rules[0].from[0]: a source without a field"},
		{"source with empty not", from(`{"notServices":[]}`), "a source without a field"},
		{"operation empty", to(`{}`), "an operation without a field"},
		{"list empty", from(`{"services":[]}`), "from[0].services: an empty list"},
		{"value null", from(`{"services":[null]}`), "services[0]: has no value"},
		{"value number", from(`{"services":[1]}`), "services[0]: want string, found number"},
		{"suffix of an identity", from(`{"services":["*orders"]}`), "a suffix would match names that anybody may choose"},
		{"whole SPIFFE ID", from(`{"services":["spiffe://prod.example/orders"]}`), "without scheme"},
		{"dot segment", from(`{"services":["a/../b"]}`), "is not a service's name"},
		{"brackets in identity", from(`{"services":["or[d]ers"]}`), "is not a service's name"},
		{"two stars", from(`{"services":["a/*/*"]}`), "more than one"},
		{"star in the middle", from(`{"services":["a*b"]}`), "in the middle"},
		{"trust domain prefix", from(`{"trustDomains":["prod.*"]}`), "trustDomains[0]"},
		{"trust domain upper case", from(`{"trustDomains":["Prod.example"]}`), "trustDomains[0]"},
		{"trust domain as URI", from(`{"trustDomains":["spiffe://prod.example"]}`), `write "prod.example"`},
		{"empty list after the same without it", from(`{"services":["a"]}]},{"to":[{"methods":["GET"]}]},{"to":[{"methods":["GET"],"ports":[]}`), "spec.rules[2].to[0].ports: an empty list"},
		{"the same mistake twice", rule(`{"to":[{"methods":["get"]}]},{"to":[{"methods":["get"]}]}`), "spec.rules[1].to[0].methods[0]"},
		{"ip", from(`{"ips":["10.0.0"]}`), "ips[0]"},
		{"ip name", from(`{"ips":["localhost"]}`), "ips[0]"},
		{"ip star", from(`{"ips":["*"]}`), "ips[0]"},
		{"ip prefix length", from(`{"notIps":["10.0.0.0/33"]}`), "notIps[0]"},
		{"ip host bits", from(`{"ips":["10.0.0.1/8"]}`), "did you mean 10.0.0.0/8"},
		{"ip zone", from(`{"ips":["fe80::1%eth0"]}`), "ips[0]"},
		{"ip mixed prefix", from(`{"ips":["::ffff:0:0/90"]}`), "ips[0]"},
		{"port number sign", to(`{"ports":["web admin"]}`), "ports[0]"},
		{"method lower", to(`{"methods":["post"]}`), `write "POST"`},
		{"method two", to(`{"methods":["GET,POST"]}`), "is not an HTTP method"},
		{"path relative", to(`{"paths":["charge"]}`), "starts with"},
		{"path encoded", to(`{"paths":["/a%2fb"]}`), `"%2f" is encoded`},
		{"path query", to(`{"paths":["/a?b=c"]}`), "without query"},
		{"path params", to(`{"paths":["/a;b"]}`), "parameters"},
		{"path dots", to(`{"paths":["/a/../b"]}`), "cleaned"},
		{"path double slash", to(`{"paths":["/a//b"]}`), "cleaned"},
		{"path template open", to(`{"paths":["/a/{id"]}`), "neither text"},
		{"path template part", to(`{"paths":["/a/x{id}"]}`), "neither text"},
		{"path template twice", to(`{"paths":["/{id}/{id}"]}`), "twice"},
		{"path template rest", to(`{"paths":["/{a...}/b"]}`), "not at the end"},
		{"path template and star", to(`{"paths":["/{a}/*"]}`), "both a template"},
		{"path NUL", to(`{"paths":["/a\u0000"]}`), "has the character"},
		{"lone surrogate", to(`{"paths":["/\ud800"]}`), "has the character"},
		{"host upper", to(`{"hosts":["Payments"]}`), "hosts[0]"},
		{"host port", to(`{"hosts":["payments:80"]}`), "hosts[0]"},
		{"host dot", to(`{"hosts":["payments."]}`), "hosts[0]"},
		{"host empty", to(`{"hosts":[""]}`), "hosts[0]"},
		{"grpc slash", to(`{"grpc":["/pay.v1.Payments/Charge"]}`), "leading slash"},
		{"grpc service", to(`{"grpc":["pay.v1.Payments"]}`), "is not a method"},
		{"grpc slashes", to(`{"grpc":["a/b/c"]}`), "more than one slash"},
		{"condition key", when(`{"key":"request.path","values":["x"]}`), "when[0].key: unknown key"},
		{"condition jwt", when(`{"key":"request.jwt.role","values":["admin"]}`), `when[0].key: "request.jwt.role": want request.jwt.iss, sub, aud, claim.NAME`},
		{"condition claim without name", when(`{"key":"request.jwt.claim","values":["admin"]}`), "when[0].key: \"request.jwt.claim\": want"},
		{"condition claim with an empty name", when(`{"key":"request.jwt.claim.a..b","values":["admin"]}`), "when[0].key: "},
		{"condition claim with an open bracket", when(`{"key":"request.jwt.claim[a","values":["admin"]}`), "when[0].key: "},
		{"condition claim too deep", when(`{"key":"request.jwt.claim.a.b.c.d.e.f.g.h.i","values":["admin"]}`), "at most 8 names deep"},
		{"condition host", when(`{"key":"request.header.Host","values":["x"]}`), "use the field hosts"},
		{"condition header", when(`{"key":"request.header.a b","values":["x"]}`), "is not a header's name"},
		{"condition no header", when(`{"key":"request.header.","values":["x"]}`), "is not a header's name"},
		{"condition without values", when(`{"key":"source.ip"}`), "needs values or notValues"},
		{"condition empty values", when(`{"key":"source.ip","values":[],"notValues":["::1"]}`), "values: an empty list"},
		{"condition ip", when(`{"key":"source.ip","values":["a"]}`), "when[0].values[0]"},
		{"condition missing key", when(`{"values":["a"]}`), "when[0].key"},
		{"long value", from(`{"services":["` + long + `"]}`), "at most 1024 are accepted"},
		{"many values", from(`{"services":[` + many + `]}`), "at most 1000 are accepted"},
		{"many sources", from(`{"ips":["::1"]}` + strings.Repeat(`,{"ips":["::1"]}`, policy.MaxEntries)), "at most 100 are accepted"},
		{"many rules", rule(`{}` + strings.Repeat(`,{}`, policy.MaxRules)), "at most 10000 are accepted"},
		{"many documents", strings.Repeat("{}", policy.MaxDocuments+1), "at most 20000 are accepted"},
		{"large", strings.Repeat(" ", 16<<20+1), "larger than 16777216 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			docs, err := policy.Parse("f", []byte(tt.input))
			if docs != nil {
				t.Error("documents came back with an error")
			}
			var pe *policy.ParseError
			if !errors.As(err, &pe) || len(pe.Problems) == 0 {
				t.Fatalf("got %v, want a *ParseError", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if len(err.Error()) > 100_000 {
				t.Errorf("the error is %d bytes long", len(err.Error()))
			}
		})
	}
}

func TestParseTellsEveryProblem(t *testing.T) {
	_, err := policy.Parse("rules.json", []byte(doc("p", "x", "permit", `"rules":[{"from":[{"ips":["a","b"]}]}]`)))
	var pe *policy.ParseError
	if !errors.As(err, &pe) || len(pe.Problems) != 3 {
		t.Fatalf("got %v, want three problems", err)
	}
	for _, p := range pe.Problems {
		if p.File != "rules.json" || p.Line != 1 || p.Column == 0 || p.Document != "p" || p.Field == "" {
			t.Errorf("problem without its place: %+v", p)
		}
	}
}

// TestDecode is what a reader of another format relies on.
func TestDecode(t *testing.T) {
	str := func(s string, line int) *policy.Node {
		return &policy.Node{Kind: policy.NodeString, Value: s, Line: line, Column: 3}
	}
	obj := func(line int, kv ...any) *policy.Node {
		n := &policy.Node{Kind: policy.NodeObject, Line: line, Column: 1}
		for i := 0; i < len(kv); i += 2 {
			v := kv[i+1].(*policy.Node)
			n.Members = append(n.Members, policy.Member{Key: kv[i].(string), Line: v.Line, Column: 1, Value: v})
		}
		return n
	}
	tree := obj(1, "apiVersion", str("mesh/v1", 1), "kind", str("Authorization", 2),
		"metadata", obj(3, "name", str("p", 3)), "spec", obj(4, "service", str("x", 5), "action", str("allow", 6)))
	list := &policy.Node{Kind: policy.NodeList, Items: []*policy.Node{tree}}
	docs, err := policy.Decode("f.yaml", []*policy.Node{list})
	if err != nil || len(docs) != 1 || docs[0].Spec.Service != "x" {
		t.Fatalf("got %+v, %v", docs, err)
	}
	_, err = policy.Decode("f.yaml", []*policy.Node{nil})
	if err == nil || !strings.Contains(err.Error(), "has no value") {
		t.Errorf("nil node: got %v", err)
	}
	tree.Members[3].Value.Members[1].Value.Value = "deni"
	_, err = policy.Decode("f.yaml", []*policy.Node{tree})
	if err == nil || err.Error() != `f.yaml:6:3: spec.action: want allow, deny or audit, found "deni"` {
		t.Errorf("got %v", err)
	}
}

func TestCompileChecksWhatWasNotParsed(t *testing.T) {
	bad := parse(t, full, full[:0])
	bad[0].Spec.Rules[0].From[0].Services = []string{}
	_, err := policy.Static(prod, bad...)
	if err == nil || !strings.Contains(err.Error(), "payments-callers: spec.rules[0].from[0].services: an empty list") {
		t.Errorf("got %v", err)
	}
	good := parse(t, full)
	if _, err := policy.Static(prod, good[0], good[0]); err == nil || !strings.Contains(err.Error(), "is taken by another document") {
		t.Errorf("same name twice: got %v", err)
	}
	if _, err := policy.Compile(&policy.Bundle{Documents: good}); err == nil {
		t.Error("a bundle without a trust domain compiled")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("[" + full + "]\n{}"))
	f.Add([]byte(doc("p", "x", "deny", `"rules":[{"when":[{"key":"request.header.a","values":["\ud83d*"]}]}]`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := policy.Parse("f", data)
		if err != nil {
			var pe *policy.ParseError
			if !errors.As(err, &pe) || docs != nil {
				t.Fatalf("got %v and %d documents", err, len(docs))
			}
			return
		}
		out, err := json.Marshal(docs)
		if err != nil {
			t.Fatal(err)
		}
		again, err := policy.Parse("f", out)
		if err != nil {
			t.Fatalf("what was accepted and written is refused: %v\n%s", err, out)
		}
		if len(docs) > 0 && !reflect.DeepEqual(docs, again) {
			t.Fatalf("round trip changed %+v to %+v", docs, again)
		}
		if _, err := policy.Static(prod, docs...); err != nil {
			t.Fatalf("what was accepted does not compile: %v", err)
		}
	})
}
