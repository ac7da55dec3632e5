package discoverytest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/intramesh/mesh/discovery"
)

// Run runs the suite. It calls world once for each test, and Join several times for each world.
func Run(t *testing.T, world func(t *testing.T) Harness) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, h Harness)
	}{
		{"Unknown", testUnknown},
		{"Register", testRegister},
		{"Replace", testReplace},
		{"Deregister", testDeregister},
		{"Ports", testPorts},
		{"Members", testMembers},
		{"Late", testLate},
		{"Leave", testLeave},
		{"Refuse", testRefuse},
		{"Immutable", testImmutable},
		{"Concurrent", testConcurrent},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, world(t)) })
	}
}

// endpoint is on the addresses reserved for documentation (RFC 5737).
func endpoint(service, port string, n uint16) discovery.Endpoint {
	return discovery.Endpoint{
		Service: service, Port: port, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), n),
	}
}

func register(t *testing.T, m Member, eps ...discovery.Endpoint) {
	t.Helper()
	for _, ep := range eps {
		if err := m.Register(t.Context(), ep); err != nil {
			t.Fatalf("Register(%+v): %v", ep, err)
		}
	}
}

func fired(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func testUnknown(t *testing.T, h Harness) {
	m := h.Join(t)
	s := m.Lookup("nobody")
	if len(s.Endpoints) != 0 {
		t.Errorf("endpoints of an unknown service: %+v", s.Endpoints)
	}
	if s.Changed == nil {
		t.Fatal("Changed is nil")
	}
	if fired(s.Changed) {
		t.Error("Changed fired, but nothing changed")
	}
	if err := m.Deregister(t.Context(), endpoint("nobody", "", 1)); err != nil {
		t.Errorf("Deregister of what was never announced: %v", err)
	}
	if fired(s.Changed) {
		t.Error("Changed fired, but nothing changed")
	}
}

func testRegister(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	unknown := b.Lookup("payments")
	want := endpoint("payments", "", 1000)
	want.Zone, want.Weight = "eu-west-1a", 7
	want.Suspect = true // must not be announced
	register(t, a, want)
	want.Instance, want.Suspect = a.Instance, false
	for _, m := range []Member{a, b} {
		got := AwaitCount(t, m, "payments", 1)
		if h.Lacks.told(got[0]) != h.Lacks.told(want) {
			t.Errorf("got %+v, want %+v", got[0], want)
		}
	}
	if !fired(unknown.Changed) {
		t.Error("the unknown service got an endpoint, but its Changed did not fire")
	}
}

func testReplace(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	ep := endpoint("payments", "", 1000)
	ep.State = discovery.Starting
	register(t, a, ep, endpoint("other", "", 1))
	AwaitCount(t, b, "payments", 1)
	AwaitCount(t, b, "other", 1)
	for _, state := range []discovery.State{discovery.Ready, discovery.Draining, discovery.Ready} {
		before, other := b.Lookup("payments"), b.Lookup("other")
		ep.State, ep.Weight = state, ep.Weight+1
		ep.Addr = netip.AddrPortFrom(ep.Addr.Addr(), ep.Addr.Port()+1) // so that no two are alike
		register(t, a, ep)
		ep.Instance = a.Instance
		Await(t, b, "payments", h.Lacks.is(ep))
		if !fired(before.Changed) {
			t.Error("the service changed, its Changed did not fire")
		}
		if fired(other.Changed) {
			t.Error("another service's Changed fired")
		}
	}
	// Announcing the same once more is no change.
	Await(t, a, "payments", h.Lacks.is(ep))
	before := a.Lookup("payments")
	register(t, a, ep)
	if fired(before.Changed) {
		t.Error("Changed fired, but nothing changed")
	}
}

func testDeregister(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	register(t, a, endpoint("payments", "", 1000), endpoint("payments", "admin", 1001))
	AwaitCount(t, b, "payments", 2)
	if err := a.Deregister(t.Context(), discovery.Endpoint{Service: "payments"}); err != nil {
		t.Fatal(err)
	}
	for _, m := range []Member{a, b} {
		Await(t, m, "payments", func(eps []discovery.Endpoint) bool { return len(eps) == 1 && eps[0].Port == "admin" })
	}
	if err := a.Deregister(t.Context(), endpoint("payments", "admin", 1001)); err != nil {
		t.Fatal(err)
	}
	AwaitCount(t, a, "payments", 0)
	AwaitCount(t, b, "payments", 0)
	register(t, a, endpoint("payments", "", 1002))
	AwaitCount(t, b, "payments", 1)
}

func testPorts(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	register(t, a,
		endpoint("payments", "", 1000), endpoint("payments", "admin", 1001),
		endpoint("billing/invoices", "", 1002), endpoint("orders", "admin", 1003))
	got := AwaitCount(t, b, "payments", 2)
	if got[0].Port == got[1].Port || !h.Lacks.Instance && got[0].Instance != got[1].Instance {
		t.Errorf("got %+v", got)
	}
	AwaitCount(t, b, "billing/invoices", 1)
	if got := AwaitCount(t, b, "orders", 1); got[0].Port != "admin" {
		t.Errorf("got %+v", got)
	}
}

func testMembers(t *testing.T, h Harness) {
	members := []Member{h.Join(t), h.Join(t), h.Join(t)}
	for i, m := range members {
		port := 1000 + i/2 // the same address twice is possible, behind different network namespaces
		if h.Lacks.Instance {
			port = 1000 + i
		}
		register(t, m, endpoint("payments", "", uint16(port)))
	}
	var want []discovery.Endpoint
	for _, m := range members {
		got := AwaitCount(t, m, "payments", len(members))
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Errorf("members see different endpoints or orders: %+v and %+v", got, want)
		}
	}
	for _, m := range members {
		if !h.Lacks.Instance && !slices.ContainsFunc(want, func(ep discovery.Endpoint) bool { return ep.Instance == m.Instance }) {
			t.Errorf("no endpoint of %s", m.Instance)
		}
	}
}

func testLate(t *testing.T, h Harness) {
	a := h.Join(t)
	register(t, a, endpoint("payments", "", 1000))
	b := h.Join(t)
	if got := AwaitCount(t, b, "payments", 1); !h.Lacks.Instance && got[0].Instance != a.Instance {
		t.Errorf("got %+v", got)
	}
}

func testLeave(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	register(t, a, endpoint("payments", "", 1000), endpoint("orders", "", 1001))
	register(t, b, endpoint("payments", "", 1002))
	AwaitCount(t, b, "payments", 2)
	AwaitCount(t, b, "orders", 1)
	for range 2 {
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	AwaitCount(t, b, "orders", 0)
	if got := AwaitCount(t, b, "payments", 1); got[0].Addr.Port() != 1002 {
		t.Errorf("got %+v", got)
	}
	if err := a.Register(t.Context(), endpoint("payments", "", 1000)); err == nil {
		t.Error("Register after Leave succeeded")
	}
	a.Lookup("payments") // must not panic
}

func testRefuse(t *testing.T, h Harness) {
	m := h.Join(t)
	noPort := endpoint("payments", "", 0)
	for _, ep := range []discovery.Endpoint{{}, {Service: "payments"}, endpoint("", "", 1), noPort} {
		if err := m.Register(t.Context(), ep); err == nil {
			t.Errorf("Register(%+v) succeeded", ep)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.Register(ctx, endpoint("payments", "", 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("Register with a cancelled context: %v", err)
	}
	if got := m.Lookup("payments").Endpoints; len(got) != 0 {
		t.Errorf("refused, yet announced: %+v", got)
	}
}

func testImmutable(t *testing.T, h Harness) {
	a, b := h.Join(t), h.Join(t)
	register(t, a, endpoint("payments", "", 1000))
	register(t, b, endpoint("payments", "", 1001))
	old := AwaitCount(t, b, "payments", 2)
	kept := slices.Clone(old)
	ep := endpoint("payments", "", 1000)
	ep.State = discovery.Draining
	register(t, a, ep, endpoint("payments", "admin", 1002))
	AwaitCount(t, b, "payments", 3)
	if err := a.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	AwaitCount(t, b, "payments", 1)
	if !slices.Equal(old, kept) {
		t.Errorf("a snapshot changed under its reader: %+v, was %+v", old, kept)
	}
}

func testConcurrent(t *testing.T, h Harness) {
	const services, rounds = 4, 25
	a, b := h.Join(t), h.Join(t)
	var wg sync.WaitGroup
	for i := range services {
		service := fmt.Sprintf("s%d", i)
		wg.Go(func() {
			for n := range rounds {
				ep := endpoint(service, "", uint16(1+n))
				if err := a.Register(t.Context(), ep); err != nil {
					t.Error(err)
				}
				b.Lookup(service)
				if n%5 == 4 && n < rounds-1 {
					if err := a.Deregister(t.Context(), ep); err != nil {
						t.Error(err)
					}
				}
			}
		})
		wg.Go(func() {
			Await(t, b, service, func(eps []discovery.Endpoint) bool {
				return len(eps) == 1 && eps[0].Addr.Port() == rounds
			})
		})
	}
	wg.Wait()
}
