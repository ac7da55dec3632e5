package main

import (
	"context"
	_ "embed"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/policy"
	"github.com/open-policy-agent/opa/v1/rego"
)

//go:embed charge.rego
var chargeRego string

// newOPA returns a decision by charge.rego.
func newOPA(ctx context.Context) (policy.AuthorizerFunc, error) {
	query, err := rego.New(rego.Query("data.payments.allow"), rego.Module("charge.rego", chargeRego)).PrepareForEval(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, r *policy.Request) policy.Decision {
		if r.Layer == policy.LayerConnection && r.Deferred {
			return policy.Decision{Verdict: policy.Allow} // its requests are decided one by one
		}
		result, err := query.Eval(ctx, rego.EvalInput(map[string]any{
			"caller": identity.ServiceName(r.Source), "method": r.Method, "path": r.Path,
		}))
		switch {
		case err != nil:
			return policy.Decision{Policy: "opa", Rule: -1, Reason: "charge.rego: " + err.Error()}
		case !result.Allowed():
			return policy.Decision{Policy: "opa", Rule: -1, Reason: "charge.rego does not allow it"}
		}
		return policy.Decision{Verdict: policy.Allow}
	}, nil
}
