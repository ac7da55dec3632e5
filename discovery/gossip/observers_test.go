package gossip_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
)

// One member serves a hundred observers: all learn of a change at once, none costs more than it may, and nothing of them is left.
func TestServesObservers(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		a := d.member(t, "payments", ipA)
		a.serve(t, "payments")
		before := live()
		all := make([]*gossip.Observer, 100)
		for i := range all {
			var err error
			all[i], err = gossip.Observe(t.Context(), gossip.Config{
				Network: f.host(fmt.Sprintf("10.8.0.%d", i+1)), Seeds: []string{seedA}, Identity: d.credential(t, "orders"),
			})
			if err != nil {
				t.Fatal(err)
			}
			all[i].Await(t.Context(), "payments")
			sees(t, all[i], time.Second, ipA)
		}
		if n := a.Observers(); n != len(all) {
			t.Errorf("it serves %d observers of %d", n, len(all))
		}
		if each := (int64(live()) - int64(before)) / int64(len(all)); each > 200<<10 {
			t.Errorf("both ends of an observer take %d KiB", each>>10)
		}
		b := d.member(t, "payments", ipB, seedA)
		b.serve(t, "payments")
		for _, o := range all {
			sees(t, o, time.Second, ipA, ipB)
		}
		for _, o := range all {
			if err := o.Close(); err != nil {
				t.Error(err)
			}
		}
		<-time.After(time.Second)
		if n := a.Observers() + b.Observers(); n != 0 {
			t.Errorf("%d observers are served that are gone", n)
		}
	})
}

// All come by the same seed, and are spread over the members.
func TestObserversAreSpread(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		nodes := d.pool(t, 30)
		<-time.After(time.Minute)
		const n = 90
		for i := range n {
			startObserver(t, gossip.Config{Network: f.host(fmt.Sprintf("10.8.0.%d", i+1)), Seeds: []string{seedA}, Identity: d.credential(t, "orders")})
		}
		<-time.After(10 * time.Second)
		all, most := 0, 0
		for _, node := range nodes {
			all, most = all+node.Observers(), max(most, node.Observers())
		}
		t.Logf("%d streams of %d observers, at most %d at one of %d members, %d at the seed", all, n, most, len(nodes), nodes[0].Observers())
		if fair := all / len(nodes); all < n*19/10 || most > 6*fair {
			t.Error("they are not spread")
		}
	})
}
