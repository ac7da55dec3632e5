// Package policytest holds rules to what people expect of them: a file of cases, each a request and its verdict.
package policytest

import (
	"context"
	"fmt"

	"github.com/intramesh/mesh/policy"
)

// A Case is a request and what is expected of it.
type Case struct {
	Name    string
	Request policy.Request
	Expect  policy.Verdict
	// Policy is the document that must have decided; "" is any.
	Policy string
	// File, Line and Column are where it stands.
	File         string
	Line, Column int
}

// A Result is what became of a case.
type Result struct {
	Name     string          `json:"name"`
	File     string          `json:"file"`
	Line     int             `json:"line"`
	Passed   bool            `json:"passed"`
	Expected policy.Verdict  `json:"expected"`
	Decision policy.Decision `json:"decision"`
	// Policies tell how each policy for the service saw the request; only when it failed.
	Policies []policy.DocumentTrace `json:"policies,omitempty"`
}

// String returns "file:line: name: " and what came of it.
func (r Result) String() string {
	at := fmt.Sprintf("%s:%d: %s: ", r.File, r.Line, r.Name)
	switch {
	case r.Passed:
		return at + "ok"
	case r.Decision.Verdict == r.Expected:
		return at + "decided by another policy: " + r.Decision.String()
	}
	return fmt.Sprintf("%swant %v, got %v", at, r.Expected, r.Decision)
}

// Run decides the cases.
func Run(ctx context.Context, e *policy.Engine, cases []Case) []Result {
	out := make([]Result, len(cases))
	for i := range cases {
		c := &cases[i]
		d := e.Authorize(ctx, &c.Request)
		r := Result{Name: c.Name, File: c.File, Line: c.Line, Expected: c.Expect, Decision: d}
		r.Passed = d.Verdict == c.Expect && (c.Policy == "" || c.Policy == d.Policy)
		if !r.Passed {
			r.Policies = e.Explain(ctx, &c.Request).Policies
		}
		out[i] = r
	}
	return out
}
