package gossip_test

import (
	"fmt"
	"testing"
	"time"
)

// News that no packet brought comes by comparing digests.
func TestLostNewsIsFound(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a, b, c := f.start(t, ipA), f.start(t, ipB, seedA), f.start(t, ipC, seedA)
		for _, n := range []*node{a, b, c} {
			n.serve(t, "payments")
		}
		for _, n := range []*node{a, b, c} {
			n.within(t, 3*time.Second, "payments", ipA, ipB, ipC)
		}
		<-time.After(2 * time.Minute) // past the exchanges after the start
		f.mu.Lock()
		f.deaf = c.host.Addr()
		f.mu.Unlock()
		b.serve(t, "orders")
		a.within(t, time.Second, "orders", ipB)
		took := c.within(t, 45*time.Second, "orders", ipB)
		t.Logf("found after %v", took)
		for _, n := range []*node{a, b} {
			n.stays(t, time.Minute, ipA, ipB, ipC) // streams tell that it lives
		}
	})
}

// All start at once, through one seed.
func TestBurstJoin(t *testing.T) {
	const n = 60
	inFabric(t, func(t *testing.T, f *fabric) {
		start := time.Now()
		nodes := []*node{f.start(t, ipA)}
		for i := range n {
			nodes = append(nodes, f.start(t, fmt.Sprintf("10.0.1.%d", i), seedA))
		}
		for _, m := range nodes {
			for len(m.Members()) < n+1 {
				if time.Since(start) > 10*time.Second {
					t.Fatalf("%v knows %d of %d after %v", m.host.Addr(), len(m.Members()), n+1, time.Since(start))
				}
				<-time.After(50 * time.Millisecond)
			}
		}
		t.Logf("all know all after %v", time.Since(start))
	})
}
