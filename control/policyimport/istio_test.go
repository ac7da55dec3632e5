package policyimport_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/policyimport"
	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/policy"
)

// istioDoc is a policy of https://istio.io/latest/docs/reference/config/security/authorization-policy/ for app httpbin of
// namespace foo, of the action and the rules, which are written in flow style.
func istioDoc(action, rules string) string {
	return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: foo}\n" +
		"spec:\n  selector: {matchLabels: {app: httpbin}}\n  action: " + action + "\n  rules: " + rules + "\n"
}

func istio(t *testing.T, text string, cfg policyimport.IstioConfig) *policyimport.Result {
	t.Helper()
	r, err := policyimport.Istio([]policyimport.File{{Name: "in.yaml", Data: []byte(text)}}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestIstioFields translates one field at a time.
func TestIstioFields(t *testing.T) {
	const (
		allow, deny = "ALLOW", "DENY"
		narrow      = "left out"
		own         = `from: [{services: ["*"]}]`
	)
	for _, c := range []struct {
		action, rules string
		want          string // the rules that come out, "" for no document
		note          string // a part of a note, "" for none
	}{
		{allow, `[{}]`, `[{` + own + `}]`, ""},
		{deny, `[{}]`, `[{}]`, "no ALLOW policy here is for httpbin"},
		{allow, `[{from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]}]`, `[{from: [{services: [ns/a/sa/b]}]}]`, ""},
		{allow, `[{from: [{source: {principals: [other.example/ns/a/sa/b]}}]}]`, `[{from: [{services: [ns/a/sa/b], trustDomains: [other.example]}]}]`, ""},
		{allow, `[{from: [{source: {principals: ["*"]}}]}]`, `[{` + own + `}]`, ""},
		{allow, `[{from: [{source: {principals: ["*/sa/b"]}}]}]`, `[{from: [{services: [sa/b]}]}]`, ""},
		{deny, `[{from: [{source: {principals: ["*/sa/b"]}}]}]`, `[{}]`, "whatever the principals"},
		{allow, `[{from: [{source: {principals: ["cluster.local/ns/a/sa/b*"]}}]}]`, "", narrow},
		{allow, `[{from: [{source: {namespaces: [a]}}]}]`, `[{from: [{services: [ns/a/*]}]}]`, ""},
		{deny, `[{from: [{source: {namespaces: [a]}}]}]`, `[{from: [{trustDomains: ["*"], services: [ns/a/*]}]}]`, ""},
		{allow, `[{from: [{source: {notNamespaces: [a]}}]}]`, `[{from: [{services: ["*"], notServices: [ns/a/*]}]}]`, ""},
		{deny, `[{from: [{source: {notNamespaces: [a]}}]}]`, `[{from: [{notServices: [ns/a/*]}]}]`, ""},
		{allow, `[{from: [{source: {notPrincipals: ["*"]}}]}]`, "", narrow},
		{deny, `[{from: [{source: {notPrincipals: ["*"]}}]}]`, `[{from: [{notServices: ["*"]}]}]`, ""},
		{allow, `[{from: [{source: {serviceAccounts: [a/b, c]}}]}]`, `[{from: [{services: [ns/a/sa/b, ns/foo/sa/c]}]}]`, ""},
		{allow, `[{from: [{source: {principals: [cluster.local/ns/a/sa/b, cluster.local/ns/c/sa/d], namespaces: [c]}}]}]`, `[{from: [{services: [ns/c/sa/d]}]}]`, ""},
		{allow, `[{from: [{source: {principals: ["cluster.local/ns/a/*"], namespaces: [a]}}]}]`, "", "several lists at once"},
		{allow, `[{from: [{source: {ipBlocks: [10.1.2.3/8]}}]}]`, `[{from: [{services: ["*"], ips: [10.0.0.0/8]}]}]`, ""},
		{allow, `[{from: [{source: {notIpBlocks: [nonsense]}}]}]`, "", narrow},
		{deny, `[{from: [{source: {notIpBlocks: [nonsense]}}]}]`, `[{}]`, "denied too"},
		{allow, `[{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]`, "", "not believed"},
		{deny, `[{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]`, `[{}]`, "whatever the remoteIpBlocks"},
		{allow, `[{from: [{source: {requestPrincipals: [https://idp.example/alice]}}]}]`,
			`[{` + own + `, when: [{key: request.jwt.iss, values: [https://idp.example]}, {key: request.jwt.sub, values: [alice]}]}]`, ""},
		{deny, `[{from: [{source: {notRequestPrincipals: ["*"]}}]}]`, `[{when: [{key: request.jwt.iss, notValues: ["*"]}]}]`, ""},
		{allow, `[{from: [{source: {notRequestPrincipals: ["*"]}}]}]`, "", narrow},
		{allow, `[{from: [{source: {}}]}]`, "", narrow},
		{allow, `[{from: [{source: {colour: [red]}}]}]`, "", "not known"},
		{deny, `[{from: [{source: {colour: [red]}}]}]`, `[{}]`, "not known"},
		{allow, `[{to: [{operation: {paths: ["/v1/{*}/x/{**}", "/v1/{id}", "/a/*/b", "/{**}/x"]}}]}]`, `[{` + own + `, to: [{paths: ["/v1/{p2}/x/{rest...}"]}]}]`, narrow},
		{deny, `[{to: [{operation: {paths: ["/v1/{id}", "/x"]}}]}]`, `[{}]`, "whatever the paths"},
		{allow, `[{to: [{operation: {paths: ["/pay.v1.Pay/Charge", "/x"]}}]}]`, `[{` + own + `, to: [{paths: ["/pay.v1.Pay/Charge", "/x"]}, {grpc: [pay.v1.Pay/Charge]}]}]`, ""},
		{allow, `[{to: [{operation: {methods: [GET], paths: ["/pay.v1.Pay/Charge"]}}]}]`, `[{` + own + `, to: [{methods: [GET], paths: ["/pay.v1.Pay/Charge"]}]}]`, ""},
		{allow, `[{to: [{operation: {notMethods: [GET, "P*", T*, C*]}}]}]`, `[{` + own + `, to: [{methods: [HEAD, DELETE, OPTIONS]}]}]`, "only standard methods"},
		{deny, `[{to: [{operation: {notMethods: [GET], paths: [/x]}}]}]`, `[{to: [{paths: [/x]}]}]`, "whatever the methods"},
		{allow, `[{to: [{operation: {paths: ["/*"], notPaths: [/admin]}}]}]`, "", narrow},
		{deny, `[{to: [{operation: {paths: ["/*"], notPaths: [/ok]}}]}]`, `[{to: [{paths: ["/*"]}]}]`, "denied too"},
		{allow, `[{to: [{operation: {hosts: [A.Example, "b.example:*"]}}]}]`, `[{` + own + `, to: [{hosts: [a.example]}]}]`, "no port"},
		{deny, `[{to: [{operation: {hosts: ["b.example:*"]}}]}]`, `[{to: [{hosts: [b.example]}]}]`, ""},
		{allow, `[{to: [{operation: {ports: ["8080", "1"]}}]}]`, `[{` + own + `, to: [{ports: [web]}]}]`, "names here"},
		{deny, `[{to: [{operation: {ports: ["8080", "1"]}}]}]`, `[{}]`, "whatever the ports"},
		{allow, `[{to: [{operation: {notPorts: ["8080"]}}]}]`, `[{` + own + `, when: [{key: destination.port, notValues: [web]}]}]`, ""},
		{allow, `[{when: [{key: "request.headers[X-A]", values: [a, "b*"], notValues: ["c"]}]}]`, `[{` + own + `, when: [{key: request.header.x-a, values: [a, "b*"], notValues: [c]}]}]`, ""},
		{allow, `[{when: [{key: "request.headers[x-a]", notValues: ["a,b"]}]}]`, "", "comma"},
		{deny, `[{when: [{key: "request.headers[x-a]", values: ["a,b"]}]}]`, `[{}]`, "comma"},
		{allow, `[{when: [{key: "request.headers[x-a]", values: ["a,b"]}]}]`, `[{` + own + `, when: [{key: request.header.x-a, values: ["a,b"]}]}]`, ""},
		{allow, `[{when: [{key: "request.headers[:authority]", values: [a]}]}]`, "", narrow},
		{allow, `[{when: [{key: source.namespace, values: [a]}, {key: source.ip, values: [10.0.0.0/8]}]}]`, `[{from: [{services: [ns/a/*]}], when: [{key: source.ip, values: [10.0.0.0/8]}]}]`, ""},
		{allow, `[{when: [{key: "request.auth.claims[groups]", values: [admin]}]}]`, `[{` + own + `, when: [{key: "request.jwt.claim[groups][]", values: [admin]}]}]`, ""},
		{allow, `[{when: [{key: "request.auth.claims[realm][roles]", values: [admin]}]}]`, `[{` + own + `, when: [{key: "request.jwt.claim[realm][roles][]", values: [admin]}]}]`, ""},
		{allow, `[{when: [{key: "request.auth.claims[level]", values: ["5"]}]}]`, "", "number"},
		{deny, `[{when: [{key: "request.auth.claims[scope]", values: [read]}]}]`, `[{}]`, "spaces"},
		{allow, `[{when: [{key: connection.sni, values: [x]}]}]`, "", "can't be looked at"},
		{deny, `[{when: [{key: connection.sni, notValues: [x]}]}]`, `[{}]`, "denied too"},
		{allow, `[{when: [{key: source.ip}]}]`, "", "without values"},
		{allow, `[{colour: red}]`, "", "not known"},
	} {
		r := istio(t, istioDoc(c.action, c.rules), policyimport.IstioConfig{Ports: map[string]string{"8080": "web"}})
		var want []policy.Document
		if c.want != "" {
			text := "apiVersion: mesh/v1\nkind: Authorization\nmetadata: {name: istio.foo.p, labels: {imported-from: istio}}\nspec: {service: httpbin, action: " +
				strings.ToLower(c.action) + ", rules: " + c.want + "}\n"
			var err error
			if want, err = rulesfile.Parse("want", []byte(text)); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
		}
		got := make([]policy.Document, len(r.Documents))
		for i, d := range r.Documents {
			got[i] = d.Document
		}
		if a, b := asJSON(t, got), asJSON(t, want); a != b {
			t.Errorf("%s %s:\ngot  %s\nwant %s", c.action, c.rules, a, b)
		}
		notes := slices.DeleteFunc(slices.Clone(r.Notes), func(n policyimport.Note) bool {
			return c.action == deny && c.note == "" && strings.Contains(n.Message, "no ALLOW policy")
		})
		if c.note == "" && len(notes) > 0 || c.note != "" && !slices.ContainsFunc(notes, func(n policyimport.Note) bool { return strings.Contains(n.Message, c.note) && n.Line > 0 }) {
			t.Errorf("%s %s: want a note with %q, got %v", c.action, c.rules, c.note, notes)
		}
		if r.Widens() {
			t.Errorf("%s %s: %v", c.action, c.rules, r.Notes)
		}
	}
}

// TestIstioPolicies is about whole policies.
func TestIstioPolicies(t *testing.T) {
	rules := "[{}]"
	namespaced := strings.Replace(istioDoc("ALLOW", rules), "  selector: {matchLabels: {app: httpbin}}\n", "", 1)
	byName := policyimport.IstioConfig{Service: "{namespace}/{app}"}
	for name, c := range map[string]struct {
		text    string
		cfg     policyimport.IstioConfig
		service string // "" for no document
		note    string
		widens  bool
	}{
		"custom":                 {text: istioDoc("CUSTOM", rules), note: "policy.Authorizer", widens: true},
		"custom dry run":         {text: strings.Replace(istioDoc("CUSTOM", rules), "name: p,", `name: p, annotations: {istio.io/dry-run: "true"},`, 1), note: "policy.Authorizer"},
		"unknown action":         {text: istioDoc("MAYBE", rules), note: "MAYBE", widens: true},
		"audit":                  {text: istioDoc("AUDIT", rules), service: "httpbin"},
		"no rules":               {text: istioDoc("ALLOW", "[]"), note: "matches nothing"},
		"namespace":              {text: namespaced, note: "all services of namespace foo"},
		"namespace deny":         {text: strings.Replace(namespaced, "ALLOW", "DENY", 1), note: "all services of namespace foo", widens: true},
		"namespace in the name":  {text: namespaced, cfg: byName, service: "foo/*"},
		"root":                   {text: strings.Replace(namespaced, "foo", "istio-system", 1), service: "*"},
		"root and selector":      {text: strings.Replace(istioDoc("ALLOW", rules), "foo", "istio-system", 1), service: "httpbin"},
		"part":                   {text: strings.Replace(istioDoc("ALLOW", rules), "app: httpbin", "app: httpbin, version: v1", 1), note: "a part of httpbin"},
		"part deny":              {text: strings.Replace(istioDoc("DENY", rules), "app: httpbin", "app: httpbin, version: v1", 1), service: "httpbin", note: "denied for all of it"},
		"other label":            {text: strings.Replace(istioDoc("ALLOW", rules), "app:", "run:", 1), note: `"app" has no value`},
		"other label deny":       {text: strings.Replace(istioDoc("DENY", rules), "app:", "run:", 1), note: `"app" has no value`, widens: true},
		"no service's name":      {text: strings.Replace(istioDoc("ALLOW", rules), "app: httpbin", "app: Http.Bin", 1), note: "no service can have"},
		"targetRefs":             {text: strings.Replace(namespaced, "spec:\n", "spec:\n  targetRefs: [{kind: Service, group: \"\", name: web}]\n", 1), service: "web"},
		"gateway":                {text: strings.Replace(namespaced, "spec:\n", "spec:\n  targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: web}]\n", 1), note: "no service of this mesh"},
		"unknown field":          {text: strings.Replace(istioDoc("DENY", rules), "spec:\n", "spec:\n  colour: red\n", 1), note: "colour", widens: true},
		"unknown field in rule":  {text: istioDoc("DENY", "[{fron: []}]"), note: "rule", widens: true},
		"other version":          {text: strings.Replace(istioDoc("DENY", rules), "/v1", "/v2", 1), note: "v2", widens: true},
		"other kind":             {text: "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n", note: "passed over"},
		"request authentication": {text: "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: x}\n", note: "without jwtRules"},
		"list":                   {text: `{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "rules": [{}]}}]}`, service: "web"},
	} {
		r := istio(t, c.text, c.cfg)
		got := ""
		for _, d := range r.Documents {
			got += d.Spec.Service
		}
		if got != c.service || r.Widens() != c.widens || c.note != "" && !strings.Contains(strings.Join(noteTexts(r), "\n"), c.note) {
			t.Errorf("%s: service %q, widens %v, want %q, %v with %q: %v", name, got, r.Widens(), c.service, c.widens, c.note, r.Notes)
		}
	}
	dry := istio(t, strings.Replace(istioDoc("DENY", rules), "name: p,", `name: p, annotations: {istio.io/dry-run: "true"},`, 1), policyimport.IstioConfig{})
	if len(dry.Documents) != 1 || dry.Documents[0].Spec.Mode != policy.ModeDryRun {
		t.Errorf("dry run: %+v", dry)
	}
}

// TestIstioNamesCollide: two services or callers of one name would have each other's rights.
func TestIstioNamesCollide(t *testing.T) {
	second := strings.Replace(istioDoc("ALLOW", "[{}]"), "foo", "bar", 1)
	callers := istioDoc("ALLOW", "[{from: [{source: {principals: [cluster.local/ns/a/sa/x, cluster.local/ns/b/sa/x]}}]}]")
	for name, c := range map[string]struct {
		text string
		cfg  policyimport.IstioConfig
		ok   bool
	}{
		"services":         {text: istioDoc("ALLOW", "[{}]") + "---\n" + second},
		"services by both": {text: istioDoc("ALLOW", "[{}]") + "---\n" + second, cfg: policyimport.IstioConfig{Service: "{namespace}/{app}"}, ok: true},
		"callers":          {text: callers, cfg: policyimport.IstioConfig{Caller: "{serviceaccount}"}},
		"callers by both":  {text: callers, cfg: policyimport.IstioConfig{Caller: "{namespace}/{serviceaccount}"}, ok: true},
		"duplicate key":    {text: istioDoc("ALLOW\n  action: DENY", "[{}]")},
	} {
		_, err := policyimport.Istio([]policyimport.File{{Name: "in.yaml", Data: []byte(c.text)}}, c.cfg)
		if _, ok := errors.AsType[*policy.ParseError](err); (err == nil) != c.ok || err != nil && !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
