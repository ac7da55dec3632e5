package static_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/static"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	discoverytest.Run(t, func(*testing.T) discoverytest.Harness {
		dir, n := static.New(), 0
		return discoverytest.Harness{Join: func(testing.TB) discoverytest.Member {
			n++
			m := dir.Member(fmt.Sprintf("instance-%d", n))
			return discoverytest.Member{
				Resolver: m, Registrar: m, Instance: m.Instance(),
				Leave: func(context.Context) error { return m.Close() },
			}
		}}
	})
}

func TestSet(t *testing.T) {
	one := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	two := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.2:1")}
	dir := static.New(one, two)
	if got := dir.Lookup("payments").Endpoints; len(got) != 2 || got[0].Instance == got[1].Instance {
		t.Fatalf("got %+v", got)
	}
	one.Service = "orders"
	before := dir.Lookup("payments")
	dir.Set(one)
	select {
	case <-before.Changed:
	default:
		t.Error("Changed did not fire")
	}
	if got := dir.Lookup("payments").Endpoints; len(got) != 0 {
		t.Errorf("left behind: %+v", got)
	}
	if got := dir.Lookup("orders").Endpoints; len(got) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestDirectoryRegisters(t *testing.T) {
	dir := static.New()
	ep := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	for _, port := range []uint16{1, 2} {
		ep.Addr = netip.AddrPortFrom(ep.Addr.Addr(), port)
		if err := dir.Register(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
		if got := dir.Lookup("payments").Endpoints; len(got) != 1 || got[0].Addr != ep.Addr {
			t.Errorf("got %+v, want only %+v", got, ep)
		}
	}
	if err := dir.Deregister(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
	if got := dir.Lookup("payments").Endpoints; len(got) != 0 {
		t.Errorf("left behind: %+v", got)
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	dir := static.New(discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.1:1")})
	if n := testing.AllocsPerRun(100, func() { dir.Lookup("payments"); dir.Lookup("nobody") }); n != 0 {
		t.Errorf("%v allocations per lookup", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	dir := static.New(discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.1:1")})
	b.ReportAllocs()
	for b.Loop() {
		dir.Lookup("payments")
	}
}
