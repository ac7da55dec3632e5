package policy_test

import (
	"context"
	"testing"
	"time"

	"github.com/intramesh/mesh/policy"
)

type changing struct {
	policy.AuthorizerFunc
	c chan struct{}
}

func (c changing) Changed() <-chan struct{} { return c.c }

func TestThen(t *testing.T) {
	soon, later := time.Now().Add(time.Minute), time.Now().Add(time.Hour)
	say := func(d policy.Decision) policy.AuthorizerFunc {
		return func(context.Context, *policy.Request) policy.Decision { return d }
	}
	allowed := policy.Decision{Verdict: policy.Allow, Policy: "p", Rule: 1, Version: 7, Layer: policy.LayerHTTP, Reason: "a rule matches"}
	until := allowed
	until.NotAfter = later
	denied := policy.Decision{Policy: "p", Rule: 2, Version: 7, Layer: policy.LayerHTTP, Reason: "a deny matches"}
	untilSoon := allowed
	untilSoon.NotAfter = soon
	for name, x := range map[string]struct{ rules, own, want policy.Decision }{
		"both allow":             {allowed, policy.Decision{Verdict: policy.Allow}, allowed},
		"the earlier end counts": {until, policy.Decision{Verdict: policy.Allow, NotAfter: soon}, untilSoon},
		"own has no end":         {until, policy.Decision{Verdict: policy.Allow}, until},
		"the rules deny":         {denied, policy.Decision{Verdict: policy.Allow}, denied},
		"own denies without a word": {allowed, policy.Decision{}, policy.Decision{
			Policy: "quota", Rule: -1, Version: 7, Layer: policy.LayerHTTP, Reason: "quota refuses"}},
		"own denies and says why": {allowed, policy.Decision{Policy: "limits", Rule: 3, Reason: "too many"}, policy.Decision{
			Policy: "limits", Rule: 3, Version: 7, Layer: policy.LayerHTTP, Reason: "too many"}},
	} {
		got := policy.Then(say(x.rules), "quota", say(x.own)).Authorize(t.Context(), &policy.Request{Layer: policy.LayerHTTP})
		if got != x.want {
			t.Errorf("%s: got %+v, want %+v", name, got, x.want)
		}
	}
}

func TestThenChangesWithTheRules(t *testing.T) {
	c := make(chan struct{})
	rules := changing{c: c}
	a := policy.Then(rules, "own", nil).(interface{ Changed() <-chan struct{} })
	if got := a.Changed(); got != (<-chan struct{})(c) {
		t.Errorf("Changed = %v, want that of the rules", got)
	}
	still := policy.Then(rules.AuthorizerFunc, "own", nil).(interface{ Changed() <-chan struct{} })
	if still.Changed() != nil {
		t.Error("rules that never change have a channel")
	}
}
