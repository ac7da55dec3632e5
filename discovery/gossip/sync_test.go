package gossip_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
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

// dialed notes when its member opens a stream.
type dialed struct {
	gossip.Network
	at chan time.Time
}

func (d dialed) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.at <- time.Now()
	return d.Network.DialContext(ctx, network, address)
}

// When many join or come back it is as after the start: members compare soon, and again.
func TestArrivals(t *testing.T) {
	const every = 30 * time.Minute // in a small pool a third of that
	inFabric(t, func(t *testing.T, f *fabric) {
		start := func(ip string, n gossip.Network) {
			join(t, gossip.Config{
				Keys: [][]byte{key(1)}, BindAddr: netip.AddrPortFrom(netip.MustParseAddr(ip), 7946), Network: n, Seeds: []string{seedA},
				SyncInterval: every, ProbeInterval: 5 * time.Second, GossipInterval: time.Second,
			})
		}
		for _, ip := range []string{ipA, ipB, ipC} {
			start(ip, f.host(ip))
		}
		d := dialed{f.host("10.0.0.4"), make(chan time.Time, 1000)}
		start("10.0.0.4", d)
		<-time.After(every)
		for len(d.at) > 0 {
			<-d.at
		}
		<-d.at
		before := time.Now()
		start("10.0.0.5", f.host("10.0.0.5"))
		if took := (<-d.at).Sub(before); took > every/20+time.Minute/2 {
			t.Errorf("compares %v after somebody joined a pool of four", took)
		}
		if took := (<-d.at).Sub(before); took > every/6+time.Minute {
			t.Errorf("compares again %v after", took)
		}
	})
}
