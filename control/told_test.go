package control_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/intramesh/mesh/discovery/gossip"
)

// Members learn from gossip who has newer rules, and whether who serves is ready, by its own signature.
func TestToldInGossip(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	orders, payments := p.join(t, "orders", ""), p.join(t, "payments", "")
	echo(t, payments)
	version := p.apply(t, ordersMayCallPayments)
	eventually(t, "payments may be called", func(ctx context.Context) error { return ping(ctx, orders) })
	payments.SetReady(false) // a change takes the version along
	pool := orders.Discovery().(*gossip.Participant)
	eventually(t, "orders is told", func(context.Context) error {
		for _, m := range pool.Members() {
			if len(m.Endpoints) > 0 && m.Endpoints[0].Service == "payments" {
				if m.Bundle == version && m.Verified && m.Endpoints[0].State.String() == "starting" {
					return nil
				}
				return fmt.Errorf("it says %+v", m)
			}
		}
		return fmt.Errorf("payments is unknown")
	})
}
