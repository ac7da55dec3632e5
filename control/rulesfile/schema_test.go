package rulesfile_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/policy"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const whole = `
apiVersion: mesh/v1
kind: Authorization
metadata: {name: payments-callers, labels: {team: billing}}
spec:
  service: payments
  action: allow
  mode: enforce
  rules:
  - from:
    - services: [orders, "checkout/*"]
      notServices: []
      trustDomains: [prod.example]
      notTrustDomains: [test.example]
      ips: [10.0.0.0/8]
      notIps: [10.1.1.1]
    to:
    - ports: [web, ""]
      methods: [POST]
      paths: ["/charge", "/v1/*", "/v1/{id}/refund"]
      hosts: [payments]
    - grpc: ["pay.v1.Payments/*"]
    when:
    - {key: request.header.x-tenant, values: [a, b], notValues: []}
    - {key: "request.jwt.claim[https://x.example/roles][eu]", notValues: [guest]}
    - {key: request.jwt.sub, values: ["*"]}
  - {}
---
apiVersion: mesh/v1
kind: Default
metadata: {name: billing}
spec: {service: billing/*, verdict: allow, denials: explained}
---
apiVersion: mesh/v1
kind: Default
metadata: {name: say-little}
spec: {service: "*", denials: bare}
---
apiVersion: mesh/v1
kind: TokenIssuer
metadata: {name: idp}
spec:
  issuer: https://idp.example
  audiences: [payments]
  jwksURL: https://idp.example/keys
  header: x-token
  clockSkew: 30s
  algorithms: [ES256, EdDSA]
`

// The parser and the schema agree on what is right, and on mistakes that a schema can see.
func TestSchema(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(policy.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := rulesfile.Parse("whole.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	for i := range docs {
		raw, err := json.Marshal(docs[i])
		if err != nil {
			t.Fatal(err)
		}
		value := func(s string) any {
			v, err := jsonschema.UnmarshalJSON(strings.NewReader(s))
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		if err := schema.Validate(value(string(raw))); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
		for _, wrong := range []struct{ old, with string }{
			{`"mesh/v1"`, `"mesh/v2"`}, {`"kind":"`, `"kind":"X`}, {`"metadata":{"name":"`, `"metadata":{"name":"A`}, {`"metadata":`, `"meta":`},
			{`"spec":{`, `"spec":{"x":1,`}, {`"spec":{`, `"status":{},"spec":{`}, {`"service":"`, `"service":"*`}, {`"action":"allow"`, `"action":"permit"`}, {`"mode":"enforce"`, `"mode":"off"`},
			{`["orders","checkout/*"]`, `[]`}, {`["orders","checkout/*"]`, `"orders"`}, {`["orders","checkout/*"]`, `[1]`}, {`"services":`, `"service":`}, {`"when":[`, `"when":[{"key":"source.ip"},`},
			{`"when":[`, `"when":[{"key":"request.body","values":["a"]},`}, {`"when":[`, `"when":[{"values":["a"]},`}, {`"from":[`, `"from":[{},`}, {`"to":[`, `"to":[{},`},
			{`"verdict":"allow"`, `"verdict":"audit"`}, {`"verdict":"allow"`, `"verdict":"allow","rules":[]`}, {`"denials":"explained"`, `"denials":"yes"`}, {`,"denials":"bare"`, ``}, {`"audiences":["payments"],`, ``}, {`"audiences":["payments"]`, `"audiences":[]`},
			{`"jwksURL":"https:`, `"jwksURL":"http:`}, {`"jwksURL":`, `"jwks":"{}","jwksURL":`}, {`"ES256"`, `"none"`}, {`"issuer":"https://idp.example"`, `"issuer":""`},
		} {
			s := strings.Replace(string(raw), wrong.old, wrong.with, 1)
			if s == string(raw) {
				continue
			}
			if schema.Validate(value(s)) == nil {
				t.Errorf("the schema accepts %s in place of %s", wrong.with, wrong.old)
			}
			if _, err := policy.Parse("", []byte(s)); err == nil {
				t.Errorf("the parser accepts %s in place of %s", wrong.with, wrong.old)
			}
		}
	}
}
