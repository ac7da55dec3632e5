package policytest_test

import (
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/policytest"
	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const rules = `apiVersion: mesh/v1
kind: Authorization
metadata: {name: payments}
spec:
  service: payments
  action: allow
  rules:
  - from: [{services: [orders], ips: [10.0.0.0/8]}]
  - from: [{services: [shop]}]
    to: [{methods: [POST], paths: ["/charge"], hosts: [pay.example]}]
    when: [{key: request.header.x-tenant, values: [a, b]}]
  - from: [{services: [shop]}]
    to: [{grpc: ["pay.v1.Payments/Charge"], ports: [grpc]}]
  - from: [{trustDomains: [other.example], services: [shop]}]
    to: [{paths: ["/me"]}]
    when: [{key: request.jwt.claim.role, values: [admin]}, {key: request.jwt.claim.level, values: ["5"]}]
`

const cases = `
- {name: address, from: orders, ip: 10.1.2.3, to: payments, expect: allow}
- {name: other address, from: orders, ip: 192.0.2.1, to: payments, expect: deny}
- {name: http, from: shop, to: payments, method: POST, path: /charge, host: pay.example, headers: {x-tenant: [a, b]}, expect: allow, policy: payments}
- {name: host, from: shop, to: payments, method: POST, path: /charge, headers: {x-tenant: a}, expect: deny}
- {name: header, from: shop, to: payments, method: POST, path: /charge, host: pay.example, headers: {X-Tenant: [a, c]}, expect: deny}
- {name: grpc, from: shop, to: "payments:grpc", grpc: /pay.v1.Payments/Charge, expect: allow}
- {name: other port, from: shop, to: payments, grpc: pay.v1.Payments/Charge, expect: deny}
- {name: claims, from: "spiffe://other.example/shop", to: payments, method: GET, path: /me, claims: {role: [admin], level: 5}, expect: allow}
- {name: no token, from: "spiffe://other.example/shop", to: payments, method: GET, path: /me, expect: deny}
- {name: nobody, to: payments, expect: deny}
`

func TestRun(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("mesh.example")
	docs, err := rulesfile.Parse("rules", []byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	e, err := policy.Static(td, docs...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := policytest.Parse("cases", []byte(cases), td)
	if err != nil || len(list) != 10 {
		t.Fatalf("%d cases, %v", len(list), err)
	}
	for i, r := range policytest.Run(t.Context(), e, list) {
		if !r.Passed || r.Line != i+2 || len(r.Policies) != 0 {
			t.Errorf("%v, %+v", r, r)
		}
		if list[i].Expect = policy.Deny; r.Expected == policy.Deny {
			list[i].Expect = policy.Allow
		}
	}
	for _, r := range policytest.Run(t.Context(), e, list) {
		if r.Passed || len(r.Policies) != 1 {
			t.Errorf("%v", r)
		}
	}
}

func TestRefuses(t *testing.T) {
	const http = `method: GET, path: /x, `
	for name, c := range map[string]struct{ text, at, says string }{
		"unknown field":  {`- {from: a, to: b, expects: deny}`, "f:1:20: ", "unknown field; the fields here are name,"},
		"no expectation": {`- {from: a, to: b}`, "f:1:3: expect: ", `found ""`},
		"bad one":        {`- {from: a, to: b, expect: maybe}`, "f:1:28: expect: ", "maybe"},
		"no destination": {`- {from: a, expect: deny}`, "f:1:3: to: ", ""},
		"bad caller":     {`- {from: "a b", to: b, expect: deny}`, "f:1:10: from: ", ""},
		"bad address":    {`- {ip: x, to: b, expect: deny}`, "f:1:8: ip: ", "address"},
		"twice":          {`- {to: b, to: c, expect: deny}`, "f:1:11: to: ", "twice"},
		"both":           {`- {to: b, ` + http + `grpc: a.B/C, expect: deny}`, "f:1:3: ", "give one of them"},
		"half":           {`- {to: b, path: /x, expect: deny}`, "f:1:3: ", "a method and a path"},
		"dirty path":     {`- {to: b, method: GET, path: /x/../y, expect: deny}`, "f:1:30: path: ", "cleaned"},
		"early headers":  {`- {to: b, headers: {a: b}, expect: deny}`, "f:1:3: ", "connection"},
		"bad header":     {`- {to: b, ` + http + `headers: {a: {}}, expect: deny}`, "f:1:", "want string"},
		"bad claims":     {`- {to: b, ` + http + `claims: [a], expect: deny}`, "f:1:", "want object"},
		"not a case":     {`- a`, "f:1:3: ", "want a case"},
		"JSON":           {`[{"to": "b", "expect": true}]`, "f:1:24: expect: ", "want string"},
	} {
		if name == "early headers" {
			c.says = "headers and claims are for"
		}
		_, err := policytest.Parse("f", []byte(c.text), spiffeid.RequireTrustDomainFromString("mesh.example"))
		if err == nil || !strings.HasPrefix(err.Error(), c.at) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(cases)
	td := spiffeid.RequireTrustDomainFromString("mesh.example")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := policytest.Parse("f", []byte(text), td)
		if err == nil {
			policytest.Run(t.Context(), nil, list)
		}
	})
}
