package gossip_test

import (
	"fmt"
	"testing"
	"time"
)

// A few tell that there are new rules, not everybody.
func TestBundleIsToldByAFew(t *testing.T) {
	const n = 20
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		var nodes []*node
		for i := range n {
			nodes = append(nodes, d.member(t, "payments", fmt.Sprintf("10.0.0.%d", 1+i), seedA))
		}
		<-time.After(time.Minute)
		for _, m := range nodes {
			m.SetBundle(17)
		}
		<-time.After(time.Minute)
		told := 0
		for _, m := range nodes[0].Members() {
			switch m.Bundle {
			case 17:
				told++
			case 0:
			default:
				t.Errorf("got %+v", m)
			}
		}
		if told < 3 || told > n/2 {
			t.Errorf("%d of %d tell", told, n)
		}
		t.Logf("%d of %d tell", told, n)
	})
}
