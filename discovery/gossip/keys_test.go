package gossip_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
)

func TestKeysAreRotatedWithoutLoss(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		var nodes []*node
		var all []string
		for i := range 6 {
			ip := fmt.Sprintf("10.0.0.%d", 1+i)
			nodes = append(nodes, d.member(t, "payments", ip, seedA))
			nodes[i].serve(t, "payments")
			all = append(all, ip)
		}
		for _, n := range nodes {
			n.within(t, 5*time.Second, "payments", all...)
		}
		// The last one hears of nothing while the keys change, and is given up.
		away := nodes[5]
		cut := func(from, to netip.Addr) bool { return from == away.host.Addr() || to == away.host.Addr() }
		f.setCut(cut)
		rest := append(append([]string{}, all[:5]...), all[5]+"?")
		for _, n := range nodes[:5] {
			n.within(t, 20*time.Second, "payments", rest...)
		}
		roll := func(n *node, keys ...[]byte) {
			t.Helper()
			if err := n.SetKeys(keys); err != nil {
				t.Fatal(err)
			}
			nodes[0].stays(t, 300*time.Millisecond, nodes[0].sees("payments")...)
		}
		for _, step := range [][][]byte{{key(1), key(2)}, {key(2), key(1)}, {key(2)}} {
			for _, n := range nodes[:5] {
				roll(n, step...)
			}
			nodes[0].stays(t, 2*time.Second, nodes[0].sees("payments")...)
		}
		// Changes travel under the new key.
		if err := nodes[4].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		nodes[0].within(t, time.Second, "payments", append(append([]string{}, all[:4]...), all[5]+"?")...)
		for _, n := range nodes {
			if r := n.Refused(); r.Sealed > 0 {
				t.Errorf("%v could not read %d messages", n.host.Addr(), r.Sealed)
			}
		}
		// It comes back, and is no member until it is handed the key.
		f.hostile = true
		f.setCut(nil)
		nodes[0].stays(t, 20*time.Second, append(append([]string{}, all[:4]...), all[5]+"?")...)
		if err := away.SetKeys([][]byte{key(2), key(1)}); err != nil {
			t.Fatal(err)
		}
		want := append(append([]string{}, all[:4]...), all[5])
		for _, n := range nodes[:4] {
			n.within(t, 25*time.Second, "payments", want...)
		}
		away.within(t, 2*time.Minute, "payments", want...) // one left that it had not heard of
	})
}

func TestSetKeysRefuses(t *testing.T) {
	m := join(t, config())
	for _, keys := range [][][]byte{nil, {key(1)[:16]}, make([][]byte, gossip.MaxKeys+1)} {
		if m.SetKeys(keys) == nil {
			t.Errorf("took %d keys", len(keys))
		}
	}
	if gossip.KeyID(key(1)) == gossip.KeyID(key(2)) || len(gossip.KeyID(key(1))) != 8 {
		t.Error("two keys with one name")
	}
}
