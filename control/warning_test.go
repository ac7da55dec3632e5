package control_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const otherKinds = `
apiVersion: mesh/v1
kind: Default
metadata: {name: open}
spec: {service: payments, verdict: allow}
---
apiVersion: mesh/v1
kind: TokenIssuer
metadata: {name: idp}
spec:
  issuer: https://idp.example
  audiences: [payments]
  jwksURL: https://idp.example/keys
`

const byClaim = `
apiVersion: mesh/v1
kind: Authorization
metadata: {name: no-guests}
spec:
  service: payments
  action: deny
  rules:
  - to: [{methods: [POST]}]
    when: [{key: request.jwt.claim.role, values: [guest]}]
`

// A default travels as rules do, and a policy that a member's listener can't evaluate is visible at the
// control plane, within moments and as long as it is so.
func TestWarningsAreVisible(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	payments, orders := p.join(t, "payments", ""), p.join(t, "orders", "")
	echo(t, payments)
	p.apply(t, otherKinds)
	eventually(t, "allowed by default", func(ctx context.Context) error { return ping(ctx, orders) })
	warnings := func(want int) func(context.Context) error {
		return func(ctx context.Context) error {
			members, err := p.admin.Members(ctx)
			if err != nil {
				return err
			}
			for _, m := range members {
				if m.Service != "payments" {
					continue
				}
				if len(m.Warnings) != want || want > 0 && !strings.Contains(m.Warnings[0], "no-guests: spec.rules[0]: looks at the claim, and the default port of payments") {
					return fmt.Errorf("%q", m.Warnings)
				}
				return nil
			}
			return errors.New("payments is not there")
		}
	}
	began := time.Now()
	p.apply(t, byClaim)
	eventually(t, "payments tells that it can't evaluate the rule", warnings(1))
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("after %v: the poll was not begun anew", d)
	}
	if err := ping(t.Context(), orders); err == nil {
		t.Error("what can't be evaluated was let through")
	}
	if _, err := p.admin.Delete(t.Context(), []string{"no-guests"}, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has nothing to tell any more", warnings(0))
}
