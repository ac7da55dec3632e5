package discovery

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// maxUnknown bounds how many names are watched that no source knows: names can come from outside.
const maxUnknown = 1024

// A Merged knows what any of its sources knows. See [Merge].
type Merged struct {
	sources []Resolver
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	known   atomic.Pointer[map[string]*merged] // the map is never modified once it is published

	mu      sync.Mutex
	closed  bool
	unknown map[string]*merged // services without endpoints
}

// merged is what the sources said of a service. It is immutable.
type merged struct {
	endpoints []Endpoint
	parts     []<-chan struct{} // Changed of each source
	changed   chan struct{}     // closed when other endpoints replace it, or it is forgotten
	forgotten chan struct{}     // closed when the service is no longer watched
}

// Merge returns a resolver that asks several: those that know best first, gossip before a list that somebody else
// keeps. Whoever made the sources closes them, after the Merged.
//
// Of endpoints of several sources that share a port and an address, or a port and an Instance, the one of the earlier source
// stays, with this of the later: what it left empty (Zone, Weight); the more restrictive State, so that an endpoint
// which any source holds back gets nothing new. It is Suspect when all who list it say so. A suspect's State does not
// count when another source is sure. What one source alone lists stays as it is.
//
// Merge has no panic threshold of its own. A source that is unsure says Suspect and does not drop: a source that has lost its
// server therefore never empties a service, and what the others are sure of goes first.
//
// The first lookup of a service merges; later ones find the result. Of more than a thousand names that no source knows, some are
// forgotten again, and their Changed fires.
func Merge(sources ...Resolver) *Merged {
	m := &Merged{sources: slices.Clone(sources), unknown: make(map[string]*merged)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.known.Store(&map[string]*merged{})
	return m
}

// Behind returns a function that merges these sources behind the one that it is given. It is what mesh.Config.AlsoDiscovery takes.
// Programs that merge nothing do not link this.
func Behind(sources ...Resolver) func(Resolver) Resolver {
	return func(first Resolver) Resolver { return Merge(append([]Resolver{first}, sources...)...) }
}

// Lookup implements [Resolver].
func (m *Merged) Lookup(service string) Snapshot {
	e := (*m.known.Load())[service]
	if e == nil || e.outdated() {
		e = m.refresh(service, nil)
	}
	return Snapshot{Endpoints: e.endpoints, Changed: e.changed}
}

// Register implements [Registrar] by the first source that is one. Without one it does nothing: somebody else lists this
// process then, as Kubernetes does.
func (m *Merged) Register(ctx context.Context, ep Endpoint) error {
	if r := m.registrar(); r != nil {
		return r.Register(ctx, ep)
	}
	return nil
}

// Deregister implements [Registrar], like Register.
func (m *Merged) Deregister(ctx context.Context, ep Endpoint) error {
	if r := m.registrar(); r != nil {
		return r.Deregister(ctx, ep)
	}
	return nil
}

func (m *Merged) registrar() Registrar {
	for _, s := range m.sources {
		if r, ok := s.(Registrar); ok {
			return r
		}
	}
	return nil
}

// Close ends the watching of the sources, which stay open. Lookups go on to work; Changed fires no more. It always returns nil.
func (m *Merged) Close() error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
	return nil
}

func (e *merged) outdated() bool {
	for _, c := range e.parts {
		select {
		case <-c:
			return true
		default:
		}
	}
	return false
}

// refresh returns what the sources say now; nil if following is the channel of a service that was forgotten.
func (m *Merged) refresh(service string, following chan struct{}) *merged {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.find(service)
	if following != nil && (was == nil || was.forgotten != following) {
		return nil
	}
	if was != nil && !was.outdated() {
		return was
	}
	e := &merged{changed: make(chan struct{}), forgotten: make(chan struct{})}
	lists := make([][]Endpoint, len(m.sources))
	for i, s := range m.sources {
		snap := s.Lookup(service)
		lists[i] = snap.Endpoints
		e.parts = append(e.parts, snap.Changed)
	}
	e.endpoints = merge(lists)
	switch {
	case was == nil && !m.closed:
		for i := range e.parts {
			m.wg.Go(func() { m.follow(service, i, e) })
		}
	case was == nil:
	case slices.Equal(was.endpoints, e.endpoints):
		e.changed, e.forgotten = was.changed, was.forgotten
	default:
		e.forgotten = was.forgotten
		close(was.changed) // before e can be seen: a lookup meanwhile waits for it
	}
	m.store(service, e)
	return e
}

// find returns the entry of a service, nil when it is not watched. m.mu is held.
func (m *Merged) find(service string) *merged {
	if e := (*m.known.Load())[service]; e != nil {
		return e
	}
	return m.unknown[service]
}

// store replaces the entry of a service; m.mu is held.
func (m *Merged) store(service string, e *merged) {
	old := *m.known.Load()
	if _, known := old[service]; known || len(e.endpoints) > 0 {
		next := maps.Clone(old)
		if next[service] = e; len(e.endpoints) == 0 {
			delete(next, service)
		}
		m.known.Store(&next)
	}
	if len(e.endpoints) > 0 {
		delete(m.unknown, service)
		return
	}
	if _, there := m.unknown[service]; !there && len(m.unknown) >= maxUnknown {
		for other, o := range m.unknown {
			delete(m.unknown, other)
			close(o.changed)
			close(o.forgotten)
			break
		}
	}
	m.unknown[service] = e
}

// follow asks the sources again whenever one of them, i, has something new, until the service is forgotten.
func (m *Merged) follow(service string, i int, e *merged) {
	for {
		select {
		case <-e.parts[i]:
		case <-e.forgotten:
			return
		case <-m.ctx.Done():
			return
		}
		if e = m.refresh(service, e.forgotten); e == nil {
			return
		}
	}
}

// merge is the rule that [Merge] tells.
func merge(lists [][]Endpoint) []Endpoint {
	type address struct {
		port string
		addr netip.AddrPort
	}
	type instance struct{ port, name string }
	var all []Endpoint
	byAddress, byInstance := make(map[address][]int), make(map[instance]int)
	for _, list := range lists {
		known := len(all) // one source may list an address twice, behind different networks
		for _, ep := range list {
			var same []int
			for _, a := range ep.Addrs() {
				if same = byAddress[address{ep.Port, a}]; same != nil {
					break
				}
			}
			if i, ok := byInstance[instance{ep.Port, ep.Instance}]; ok && ep.Instance != "" {
				same = []int{i}
			}
			if len(same) == 0 {
				all = append(all, ep)
			}
			for _, i := range same {
				all[i] = fold(all[i], ep)
			}
		}
		for i, ep := range all[known:] {
			for _, addr := range ep.Addrs() {
				a := address{ep.Port, addr}
				byAddress[a] = append(byAddress[a], known+i)
			}
			byInstance[instance{ep.Port, ep.Instance}] = known + i
		}
	}
	slices.SortStableFunc(all, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Instance, b.Instance), a.Addr.Compare(b.Addr))
	})
	return all
}

// fold adds to an endpoint what a later source says of it.
func fold(ep, later Endpoint) Endpoint {
	ep.Zone = cmp.Or(ep.Zone, later.Zone)
	ep.Weight = cmp.Or(ep.Weight, later.Weight)
	if ep.Addr == later.Addr {
		ep.Also = cmp.Or(ep.Also, later.Also)
	}
	switch {
	case ep.Suspect == later.Suspect:
		ep.State = max(ep.State, later.State) // their order is that of restriction
	case ep.Suspect:
		ep.State, ep.Suspect = later.State, false
	}
	return ep
}
