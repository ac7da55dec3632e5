package policy_test

import (
	"context"
	"testing"
	"time"

	"github.com/intramesh/mesh/policy"
)

// What callers are told is up to the narrowest Default that says so, and never told to those of other trust domains.
func TestDenialsAreToldAsTheDefaultsSay(t *testing.T) {
	e := engine(t,
		of("Default", "all", `"service":"*","denials":"bare"`),
		of("Default", "billing", `"service":"billing/*","denials":"explained"`),
		of("Default", "ledger", `"service":"billing/ledger","verdict":"deny"`),
		of("Default", "pay", `"service":"payments","verdict":"allow"`),
		doc("p", "payments", "deny", `"rules":[{"from":[{"services":["crawler"]}]}]`),
	)
	for _, tt := range []struct {
		from, to, by string
		told         bool
	}{
		{"orders", "web", "", false},
		{"orders", "billing/invoices", "", true},
		{"orders", "billing/ledger", "ledger", true}, // its own Default has a verdict, and leaves the rest to the wider one
		{"crawler", "payments", "p", false},
		{"spiffe://other.example/orders", "billing/invoices", "", false},
		{"spiffe://prod.example.evil/orders", "billing/invoices", "", false},
		{"", "billing/invoices", "", false},
	} {
		d := e.Authorize(t.Context(), request(t, func(r *policy.Request) { r.Source, r.Destination = id(t, tt.from), tt.to }))
		if d.Verdict != policy.Deny || d.Policy != tt.by || d.Reason == "" || d.Tell != tt.told {
			t.Errorf("%s to %s: %+v", tt.from, tt.to, d)
		}
		bare := policy.Decision{Layer: d.Layer, Rule: -1}
		if got := d.Told(); tt.told && (got.Reason != d.Reason || got.Policy != d.Policy) || !tt.told && got != bare {
			t.Errorf("%s to %s is told %+v of %+v", tt.from, tt.to, got, d)
		}
	}
	if d := engine(t).Authorize(t.Context(), request(t, nil)); !d.Tell {
		t.Error("without a Default, members are not told")
	}
	if d := new(policy.Engine).Authorize(t.Context(), request(t, nil)); d.Tell {
		t.Error("without rules, members are told")
	}
}

// What is for this side only is told to nobody.
func TestToldLeavesOutWhatIsOurs(t *testing.T) {
	d := policy.Decision{
		Tell: true, Policy: "p", Rule: 1, Version: 7, Reason: "a rule matches",
		NotAfter: time.Now(), Retry: make(chan struct{}), Shadow: &policy.Shadow{},
	}
	want := policy.Decision{Tell: true, Policy: "p", Rule: 1, Version: 7, Reason: "a rule matches"}
	if got := d.Told(); got != want {
		t.Errorf("%+v", got)
	}
}

// The operator's setting holds for what the user's own function denies, too.
func TestThenTellsAsTheRulesDo(t *testing.T) {
	own := func(context.Context, *policy.Request) policy.Decision {
		return policy.Decision{Tell: true, Reason: "a secret"}
	}
	for setting, told := range map[string]bool{"bare": false, "explained": true} {
		e := engine(t, of("Default", "all", `"service":"*","verdict":"allow","denials":"`+setting+`"`))
		if d := policy.Then(e, "own", own).Authorize(t.Context(), request(t, nil)); d.Verdict != policy.Deny || d.Tell != told {
			t.Errorf("%s: %+v", setting, d)
		}
	}
}
