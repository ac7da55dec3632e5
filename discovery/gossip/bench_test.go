package gossip_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/discovery/gossip/internal/attack"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
)

// crowd returns the state of n members of a hundred services, with records of the size of signed ones.
func crowd(n int) []byte {
	states := make([][]byte, n)
	for i := range states {
		ip := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		r := record.Record{Zone: "eu-west-1a", Generation: uint64(time.Now().UnixMilli()), Endpoints: []discovery.Endpoint{
			{Service: fmt.Sprint("service", i%100), Zone: "eu-west-1a", Addr: netip.AddrPortFrom(ip, 443)},
		}}
		_, _ = rand.Read(r.Cert[:])
		meta := append(r.Encode(ip), 200, 72)
		meta = append(meta, make([]byte, 72)...)
		states[i] = attack.State(fmt.Sprintf("k3j5h2g4%05d", i), ip.AsSlice(), meta, attack.Versions(), 1, 0)
	}
	return attack.Exchange(n, states...)
}

func live() uint64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// BenchmarkHeap measures what a member keeps in memory that knows 10,000 others and calls a few services.
func BenchmarkHeap(b *testing.B) {
	const n = 10_000
	f := newFabric()
	h := f.host(ipA)
	for range b.N {
		message := crowd(n)
		before := live()
		m, err := gossip.Join(b.Context(), gossip.Config{
			Network: h, BindAddr: netip.AddrPortFrom(h.Addr(), 7946), Keys: [][]byte{key(1)}, ProbeInterval: time.Hour, GossipInterval: time.Millisecond, SyncInterval: time.Hour,
		})
		if err != nil {
			b.Fatal(err)
		}
		evil := f.attackerAt(b, "10.6.6.6", key(1))
		evil.stream(b, ipA, message)
		for len(m.Members()) < n+1 {
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // outside of a bubble
		}
		for i := range 5 {
			if len(m.Lookup(fmt.Sprint("service", i)).Endpoints) != n/100 {
				b.Fatal("not all are known")
			}
		}
		time.Sleep(8 * time.Second) //nolint:forbidigo // until memberlist has passed on all it heard
		_ = evil.Shutdown()
		evil = nil
		b.ReportMetric(float64(live()-before)/(1<<20), "MiB/member")
		if err := m.Close(); err != nil {
			b.Fatal(err)
		}
		runtime.KeepAlive(message)
	}
}

// BenchmarkObservers measures what an observer costs in memory, its half at the member that serves it included, and stacks too: 100 of them
// follow five services each through one member that knows 1,000 others.
func BenchmarkObservers(b *testing.B) {
	const n, observers, followed = 1000, 100, 5
	f := newFabric()
	d := f.domain(b, "example.test")
	h := f.host(ipA)
	m, err := gossip.Join(b.Context(), gossip.Config{
		Network: h, BindAddr: netip.AddrPortFrom(h.Addr(), 7946), Keys: [][]byte{key(1)}, Identity: d.credential(b, "ledger"),
		ProbeInterval: time.Hour, GossipInterval: time.Millisecond, SyncInterval: time.Hour,
	})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	f.attackerAt(b, "10.6.6.6", key(1), d.credential(b, "evil")).stream(b, ipA, crowd(n))
	for len(m.Members()) < n+1 {
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // outside of a bubble
	}
	time.Sleep(3 * time.Second) //nolint:forbidigo // until memberlist has passed on all it heard
	for b.Loop() {
		before := live()
		all := make([]*gossip.Observer, observers)
		for i := range all {
			all[i], err = gossip.Observe(b.Context(), gossip.Config{
				Network: f.host(fmt.Sprintf("10.9.0.%d", i+1)), Seeds: []string{seedA}, Identity: d.credential(b, "orders"),
			})
			if err != nil {
				b.Fatal(err)
			}
			for j := range followed {
				service := fmt.Sprint("service", j)
				all[i].Await(b.Context(), service)
				if len(all[i].Lookup(service).Endpoints) != n/100 {
					b.Fatalf("%d of %s are known", len(all[i].Lookup(service).Endpoints), service)
				}
			}
		}
		b.ReportMetric(float64(live()-before)/observers/(1<<10), "KiB/observer")
		for _, o := range all {
			if err := o.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkParticipantLookup is of a known service, in a member and in an observer.
func BenchmarkParticipantLookup(b *testing.B) {
	f := newFabric()
	d := f.domain(b, "example.test")
	for i, ip := range []string{ipA, ipB} {
		h := f.host(ip)
		keys := [][]byte{key(1)}[i:]
		p, err := gossip.Participate(b.Context(), gossip.Participation{
			Config:  gossip.Config{Network: h, BindAddr: netip.AddrPortFrom(h.Addr(), 7946), Seeds: []string{seedA}, Keys: keys, Identity: d.credential(b, "payments")},
			Observe: gossip.Observe,
			Enter:   func(context.Context) ([][]byte, []string, error) { return nil, nil, errors.New("it observes") },
		})
		if err != nil {
			b.Fatal(err)
		}
		defer p.Close()
		name := "observer"
		if len(keys) > 0 {
			name = "member"
			if err := p.Register(b.Context(), discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort(ipA + ":443")}); err != nil {
				b.Fatal(err)
			}
		}
		p.Await(b.Context(), "payments")
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if len(p.Lookup("payments").Endpoints) != 1 {
					b.Fatal("not known")
				}
			}
		})
	}
}
