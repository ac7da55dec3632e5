package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/static"
)

func merge(t testing.TB, sources ...discovery.Resolver) *discovery.Merged {
	t.Helper()
	m := discovery.Merge(sources...)
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// reader hides that a source can be announced to.
type reader struct{ discovery.Resolver }

// Each member sees the others through two sources, and through the second alone.
func TestMergeConformance(t *testing.T) {
	for name, sources := range map[string]func(*static.Directory, *static.Member) []discovery.Resolver{
		"first": func(_ *static.Directory, m *static.Member) []discovery.Resolver {
			return []discovery.Resolver{m, static.New()}
		},
		"second": func(_ *static.Directory, m *static.Member) []discovery.Resolver {
			return []discovery.Resolver{reader{static.New()}, m}
		},
		"both": func(d *static.Directory, m *static.Member) []discovery.Resolver {
			return []discovery.Resolver{reader{d}, m}
		},
	} {
		t.Run(name, func(t *testing.T) {
			discoverytest.Run(t, func(*testing.T) discoverytest.Harness {
				dir, n := static.New(), 0
				return discoverytest.Harness{Join: func(t testing.TB) discoverytest.Member {
					n++
					one := dir.Member(fmt.Sprintf("instance-%d", n))
					m := merge(t, sources(dir, one)...)
					return discoverytest.Member{
						Resolver: m, Registrar: m, Instance: one.Instance(),
						Leave: func(context.Context) error { return errors.Join(one.Close(), m.Close()) },
					}
				}}
			})
		})
	}
}

func TestMergeOverlap(t *testing.T) {
	at := netip.MustParseAddrPort
	a, b := at("192.0.2.1:1"), at("192.0.2.2:1")
	type eps = []discovery.Endpoint
	ep := func(instance string, addr netip.AddrPort, more ...func(*discovery.Endpoint)) discovery.Endpoint {
		e := discovery.Endpoint{Service: "payments", Instance: instance, Addr: addr}
		for _, f := range more {
			f(&e)
		}
		return e
	}
	also := func(addr netip.AddrPort) func(*discovery.Endpoint) {
		return func(e *discovery.Endpoint) { e.Also = discovery.AddrsOf(addr.Addr()) }
	}
	suspect := func(e *discovery.Endpoint) { e.Suspect = true }
	state := func(s discovery.State) func(*discovery.Endpoint) {
		return func(e *discovery.Endpoint) { e.State = s }
	}
	rich := func(zone string, weight uint16) func(*discovery.Endpoint) {
		return func(e *discovery.Endpoint) { e.Zone, e.Weight = zone, weight }
	}
	for _, tt := range []struct {
		name                string
		first, second, want eps
	}{
		{"disjoint", eps{ep("x", a)}, eps{ep("y", b)}, eps{ep("x", a), ep("y", b)}},
		{"same address: the earlier name", eps{ep("x", a)}, eps{ep("y", a)}, eps{ep("x", a)}},
		{"same instance: the earlier address", eps{ep("x", a)}, eps{ep("x", b)}, eps{ep("x", a)}},
		{"one by its other address", eps{ep("x", a, also(b))}, eps{ep("y", b, state(discovery.Draining))}, eps{ep("x", a, also(b), state(discovery.Draining))}},
		{"another address is added", eps{ep("x", a)}, eps{ep("y", a, also(b))}, eps{ep("x", a, also(b))}},
		{"no instance is not the same instance", eps{ep("", a)}, eps{ep("", b)}, eps{ep("", a), ep("", b)}},
		{"what is missing is added", eps{ep("x", a)}, eps{ep("y", a, rich("z", 3))}, eps{ep("x", a, rich("z", 3))}},
		{"what is there stays", eps{ep("x", a, rich("q", 9))}, eps{ep("y", a, rich("z", 3))}, eps{ep("x", a, rich("q", 9))}},
		{"draining counts", eps{ep("x", a)}, eps{ep("y", a, state(discovery.Draining))}, eps{ep("x", a, state(discovery.Draining))}},
		{"draining counts for the other", eps{ep("x", a, state(discovery.Draining))}, eps{ep("y", a, state(discovery.Starting))}, eps{ep("x", a, state(discovery.Draining))}},
		{"one is sure that it lives", eps{ep("x", a, suspect)}, eps{ep("y", a)}, eps{ep("x", a)}},
		{"the other is sure", eps{ep("x", a)}, eps{ep("y", a, suspect)}, eps{ep("x", a)}},
		{"both suspect", eps{ep("x", a, suspect)}, eps{ep("y", a, suspect)}, eps{ep("x", a, suspect)}},
		{"a stale state", eps{ep("x", a)}, eps{ep("y", a, suspect, state(discovery.Starting))}, eps{ep("x", a)}},
		{"a stale state first", eps{ep("x", a, suspect, state(discovery.Starting))}, eps{ep("y", a)}, eps{ep("x", a)}},
		{"one source, one address twice", eps{ep("x", a), ep("y", a)}, eps{ep("z", a, state(discovery.Draining))},
			eps{ep("x", a, state(discovery.Draining)), ep("y", a, state(discovery.Draining))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := merge(t, fixed(tt.first), fixed(tt.second)).Lookup("payments").Endpoints
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%+v, want\n%+v", got, tt.want)
			}
		})
	}
}

// fixed says always the same, whatever the service.
type fixed []discovery.Endpoint

func (f fixed) Lookup(string) discovery.Snapshot {
	return discovery.Snapshot{Endpoints: f, Changed: make(chan struct{})}
}

func TestMergeFollowsEachSource(t *testing.T) {
	ep := discovery.Endpoint{Service: "payments", Instance: "x", Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	dirs := []*static.Directory{static.New(), static.New(), static.New()}
	m := merge(t, dirs[0], dirs[1], dirs[2])
	for _, d := range dirs {
		before := m.Lookup("payments").Changed
		d.Set(ep)
		<-before // and nobody looks
		if got := m.Lookup("payments").Endpoints; !slices.Equal(got, []discovery.Endpoint{ep}) {
			t.Fatalf("got %+v", got)
		}
		before = m.Lookup("payments").Changed
		d.Set()
		<-before
		if got := m.Lookup("payments").Endpoints; len(got) != 0 {
			t.Fatalf("left behind: %+v", got)
		}
	}
	// What another source says already is no change.
	dirs[0].Set(ep)
	before := m.Lookup("payments").Changed
	dirs[1].Set(ep)
	if m.Lookup("payments"); closed(before) {
		t.Error("Changed fired, but nothing changed")
	}
}

// Names that somebody makes up are watched, but not all of them.
func TestMergeForgetsUnknownNames(t *testing.T) {
	dir := static.New()
	m := merge(t, dir, static.New())
	var asked []<-chan struct{}
	for i := range 3000 {
		asked = append(asked, m.Lookup(fmt.Sprintf("nobody-%d", i)).Changed)
	}
	fired := 0
	for _, c := range asked {
		if closed(c) {
			fired++
		}
	}
	if want := 3000 - 1024; fired != want {
		t.Errorf("%d were forgotten, want %d", fired, want)
	}
	for i := range 3000 { // whoever asks again is told
		name := fmt.Sprintf("nobody-%d", i)
		c := m.Lookup(name).Changed
		dir.Set(discovery.Endpoint{Service: name, Addr: netip.MustParseAddrPort("192.0.2.1:1")})
		<-c
		if i > 50 {
			break
		}
	}
}

func TestMergeClosed(t *testing.T) {
	dir := static.New()
	m := discovery.Merge(dir)
	m.Lookup("payments")
	for range 2 {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	dir.Set(discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.1:1")})
	if got := m.Lookup("payments").Endpoints; len(got) != 1 {
		t.Errorf("got %+v", got)
	}
	m.Lookup("nobody")
}

func TestMergeWithoutRegistrar(t *testing.T) {
	m := merge(t, fixed{})
	ep := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	if err := errors.Join(m.Register(t.Context(), ep), m.Deregister(t.Context(), ep)); err != nil {
		t.Error(err)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func BenchmarkMergeLookup(b *testing.B) {
	ep := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	m := merge(b, static.New(ep), static.New(ep), static.New())
	b.ReportAllocs()
	for b.Loop() {
		m.Lookup("payments")
	}
}
