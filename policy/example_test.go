package policy_test

import (
	"context"
	"fmt"

	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func ExampleStatic() {
	docs, err := policy.Parse("rules.json", []byte(`{
		"apiVersion": "mesh/v1", "kind": "Authorization",
		"metadata": {"name": "payments-callers"},
		"spec": {
			"service": "payments", "action": "allow",
			"rules": [{
				"from": [{"services": ["orders"]}],
				"to":   [{"methods": ["POST"], "paths": ["/v1/{id}/refund"]}]
			}]
		}
	}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	mesh := spiffeid.RequireTrustDomainFromString("prod.example")
	rules, err := policy.Static(mesh, docs...)
	if err != nil {
		fmt.Println(err)
		return
	}
	r := policy.Request{
		Layer:  policy.LayerHTTP,
		Source: spiffeid.RequireFromPath(mesh, "/orders"), Destination: "payments",
		Method: "POST", Path: "/v1/7/refund", Host: "payments",
	}
	fmt.Println(rules.Authorize(context.Background(), &r))
	r.Method = "DELETE"
	fmt.Println(rules.Authorize(context.Background(), &r))
	// Output:
	// allow by payments-callers[0]: a rule matches
	// deny: orders may call payments, but no rule allows DELETE /v1/7/refund
}

func ExampleParse_problems() {
	_, err := policy.Parse("rules.json", []byte(`{
		"apiVersion": "mesh/v1", "kind": "Authorization",
		"metadata": {"name": "payments-callers"},
		"spec": {"service": "payments", "action": "allow", "rules": [
			{"form": [{"services": ["orders"]}]}
		]}
	}`))
	fmt.Println(err)
	// Output:
	// rules.json:5:5: spec.rules[0].form: unknown field; the fields here are from, to, when
}
