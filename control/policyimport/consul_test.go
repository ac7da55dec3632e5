package policyimport_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/policyimport"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) == "null" {
		return "[]"
	}
	return string(b)
}

func noteTexts(r *policyimport.Result) []string {
	var out []string
	for _, n := range r.Notes {
		out = append(out, n.String())
	}
	return out
}

func consul(t *testing.T, text string) *policyimport.Result {
	t.Helper()
	r, err := policyimport.Consul([]policyimport.File{{Name: "in.hcl", Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// hclEntry has what the reference's examples have
// (https://developer.hashicorp.com/consul/docs/reference/config-entry/service-intentions), in the three formats below.
const hclEntry = `
Kind = "service-intentions"
Name = "api"
Sources = [
  {
    Name = "admin-dashboard"
    Permissions = [
      {
        Action = "deny"
        HTTP { PathPrefix = "/v2/secret" }
      },
      {
        Action = "allow"
        HTTP {
          PathPrefix = "/v2"
          Methods    = ["get", "PUT"]
          Header = [{ Name = "X-Env", Exact = "prod" }]
        }
      },
      {
        Action = "allow"
        HTTP { PathRegex = "/v3/.*" }
      },
    ]
  },
  { Name = "report-generator", Action = "allow", Description = "reads" },
  { Name = "billing", Action = "deny" },
  { Name = "*", Action = "deny" }, # the default
]
`

const blocksEntry = `
kind = "service-intentions"
name = "api"
sources {
  name = "admin-dashboard"
  permissions {
    action = "deny"
    http { path_prefix = "/v2/secret" }
  }
  permissions {
    action = "allow"
    http {
      path_prefix = "/v2"
      methods = ["GET", "PUT"]
      header { name = "X-Env" exact = "prod" }
    }
  }
}
sources { name = "report-generator" action = "allow" }
sources { name = "billing" action = "deny" }
sources { name = "*" action = "deny" }
`

const jsonEntry = `{"Kind": "service-intentions", "Name": "api", "Sources": [
  {"Name": "admin-dashboard", "Permissions": [
    {"Action": "deny", "HTTP": {"PathPrefix": "/v2/secret"}},
    {"Action": "allow", "HTTP": {"PathPrefix": "/v2", "Methods": ["GET", "PUT"], "Header": [{"Name": "X-Env", "Exact": "prod"}]}}]},
  {"Name": "report-generator", "Action": "allow", "Precedence": 9, "Type": "consul"},
  {"Name": "billing", "Action": "deny"}, {"Name": "*", "Action": "deny"}], "CreateIndex": 3, "ModifyIndex": 4}`

const kubernetesEntry = `apiVersion: consul.hashicorp.com/v1alpha1
kind: ServiceIntentions
metadata: {name: anything}
spec:
  destination: {name: api}
  sources:
  - name: admin-dashboard
    permissions:
    - {action: deny, http: {pathPrefix: /v2/secret}}
    - {action: allow, http: {pathPrefix: /v2, methods: [GET, PUT], header: [{name: X-Env, exact: prod}]}}
  - {name: report-generator, action: allow}
  - {name: billing, action: deny}
  - {name: "*", action: deny}
`

func TestConsulFormats(t *testing.T) {
	first := consul(t, hclEntry)
	if len(first.Documents) != 2 || !strings.Contains(strings.Join(noteTexts(first), "\n"), "in.hcl:20: permission: PathRegex can't be said here; left out") {
		t.Fatalf("%s\n%v", yamlOf(t, first), first.Notes)
	}
	for _, text := range []string{blocksEntry, jsonEntry, kubernetesEntry} {
		r := consul(t, text)
		if asJSON(t, first.Documents) != asJSON(t, r.Documents) || r.Widens() {
			t.Errorf("%s\nbecomes\n%s\nwant\n%s", text, yamlOf(t, r), yamlOf(t, first))
		}
	}
	e := compile(t, first)
	for _, c := range []struct {
		from, method, path string
		want               policy.Verdict
	}{
		{"admin-dashboard", "GET", "/v2/widgets", policy.Allow},
		{"admin-dashboard", "POST", "/v2/widgets", policy.Deny},
		{"admin-dashboard", "GET", "/v2/secret", policy.Deny},
		{"report-generator", "POST", "/v2/secret", policy.Allow},
		{"billing", "GET", "/v2", policy.Deny},
		{"other", "GET", "/v2", policy.Deny},
	} {
		q := &policy.Request{
			Layer: policy.LayerHTTP, Source: spiffeid.RequireFromString("spiffe://" + ownDomain + "/" + c.from), Destination: "api",
			Method: c.method, Path: c.path, Host: "api", Header: map[string][]string{"X-Env": {"prod"}},
		}
		if d := e.Authorize(t.Context(), q); d.Verdict != c.want {
			t.Errorf("%s %s %s: %v", c.from, c.method, c.path, d)
		}
	}
}

func TestConsulNotes(t *testing.T) {
	entry := func(name, sources string) string {
		return `{"Kind": "service-intentions", "Name": "` + name + `", "Sources": [` + sources + `]}`
	}
	permission := func(http string) string {
		return entry("api", `{"Name": "a", "Permissions": [{"Action": "allow", "HTTP": `+http+`}]}`)
	}
	for name, c := range map[string]struct {
		text, note string
		documents  int
		widens     bool
	}{
		"peer":                   {entry("api", `{"Name": "a", "Action": "allow", "Peer": "east"}`), "of no peer", 0, false},
		"peer denied":            {entry("api", `{"Name": "a", "Action": "deny", "Peer": "east"}`), "of no peer", 0, true},
		"namespace":              {entry("api", `{"Name": "a", "Action": "allow", "Namespace": "ns2"}`), "default namespace", 0, false},
		"default namespace":      {entry("api", `{"Name": "a", "Action": "allow", "Namespace": "default", "Partition": "default"}`), "", 1, false},
		"destination's name":     {entry("API", `{"Name": "a", "Action": "deny"}`), "no service can have", 0, true},
		"literal star":           {permission(`{"PathExact": "/a*"}`), "means something else", 0, false},
		"literal brace":          {permission(`{"PathPrefix": "/{id}"}`), "means something else", 0, false},
		"header regex":           {permission(`{"Header": [{"Name": "x", "Regex": "a"}]}`), "Regex", 0, false},
		"header case":            {permission(`{"Header": [{"Name": "x", "Exact": "a", "IgnoreCase": true}]}`), "case", 0, false},
		"header contains":        {permission(`{"Header": [{"Name": "x", "Contains": "a"}]}`), "Contains", 0, false},
		"two header forms":       {permission(`{"Header": [{"Name": "x", "Exact": "a", "Prefix": "a"}]}`), "the header", 0, false},
		"empty":                  {permission(`{}`), "empty", 0, false},
		"jwt":                    {strings.Replace(permission(`{"PathExact": "/a"}`), `"Action": "allow",`, `"Action": "allow", "JWT": {},`, 1), "JWT", 0, false},
		"unknown field":          {entry("api", `{"Name": "a", "Action": "allow", "Colour": "red"}`), "fields that can't be said", 1, false},
		"deny for every service": {entry("*", `{"Name": "a", "Action": "deny"}`), "denied here anyway", 0, false},
		"other kind":             {`{"Kind": "service-defaults", "Name": "api"}`, "passed over", 0, false},
		"wildcard and a part":    {permission(`{"PathExact": "/a"}`) + "\n" + entry("*", `{"Name": "a", "Action": "allow"}`), "api allows it a part only", 1, false},
	} {
		r := consul(t, c.text)
		if len(r.Documents) != c.documents || r.Widens() != c.widens || !strings.Contains(strings.Join(noteTexts(r), "\n"), c.note) {
			t.Errorf("%s: %d documents, widens %v, want %d, %v, %q\n%s", name, len(r.Documents), r.Widens(), c.documents, c.widens, c.note, yamlOf(t, r))
		}
	}
}

func TestConsulRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"twice":        jsonEntry + "\n" + jsonEntry,
		"source twice": `{"Kind": "service-intentions", "Name": "a", "Sources": [{"Name": "b", "Action": "allow"}, {"Name": "b", "Action": "deny"}]}`,
		"both":         `{"Kind": "service-intentions", "Name": "a", "Sources": [{"Name": "b", "Action": "allow", "Permissions": [{}]}]}`,
		"no action":    `{"Kind": "service-intentions", "Name": "a", "Sources": [{"Name": "b"}]}`,
		"no name":      `{"Kind": "service-intentions", "Name": "a", "Sources": [{"Action": "allow"}]}`,
		"spelt twice":  "Kind = \"service-intentions\"\nName = \"a\"\nname = \"b\"\n",
		"assigned":     "Kind = \"service-intentions\"\nName = \"a\"\nSources = []\nSources = []\n",
		"syntax":       "Kind = {",
		"labels":       "Kind \"a\" \"b\" {}",
	} {
		if _, err := policyimport.Consul([]policyimport.File{{Name: "in.hcl", Data: []byte(text)}}); err == nil || !strings.HasPrefix(err.Error(), "in.hcl:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzConsul(f *testing.F) {
	for _, s := range []string{hclEntry, blocksEntry, jsonEntry, kubernetesEntry} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = policyimport.Consul([]policyimport.File{{Name: "in", Data: []byte(text)}})
	})
}

func FuzzIstio(f *testing.F) {
	f.Add(istioDoc("ALLOW", `[{from: [{source: {principals: ["*"]}}], to: [{operation: {paths: [/x]}}], when: [{key: "request.headers[x]", values: [a]}]}]`))
	f.Add(authentication("httpbin", `[{issuer: x, audiences: [a], jwks: "{}", fromHeaders: [{name: y}], outputClaimToHeaders: [{header: z}]}]`))
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = policyimport.Istio([]policyimport.File{{Name: "in", Data: []byte(text)}}, policyimport.IstioConfig{})
	})
}
