// Package table holds what a resolver knows: immutable snapshots per service behind one
// atomic pointer, so that a lookup is a load and a map access.
package table

import (
	"cmp"
	"maps"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/intramesh/mesh/discovery"
)

// A Table maps services to snapshots. It is safe for concurrent use; New makes one.
type Table struct {
	view atomic.Pointer[view]

	mu      sync.Mutex // serializes Update
	retired bool
}

// view is never modified once it is published.
type view struct {
	services map[string]entry
	// unknown is the Changed of every service that is not in the map. It is closed when
	// any service enters it: names that were only asked for take no memory.
	unknown chan struct{}
}

type entry struct {
	endpoints []discovery.Endpoint
	changed   chan struct{}
}

// New returns an empty table.
func New() *Table {
	t := &Table{}
	t.view.Store(&view{unknown: make(chan struct{})})
	return t
}

// Lookup returns the service's snapshot. It neither blocks nor allocates.
func (t *Table) Lookup(service string) discovery.Snapshot {
	v := t.view.Load()
	if e, ok := v.services[service]; ok {
		return discovery.Snapshot{Endpoints: e.endpoints, Changed: e.changed}
	}
	return discovery.Snapshot{Changed: v.unknown}
}

// Update replaces the endpoints of the services named by the keys, all in one step. It takes
// ownership of the slices and sorts them; an empty one forgets the service. A service whose
// endpoints turn out the same keeps its snapshot, and its watchers are not woken.
func (t *Table) Update(changes map[string][]discovery.Endpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retired {
		return
	}
	old := t.view.Load()
	next := &view{services: maps.Clone(old.services), unknown: old.unknown}
	var fire []chan struct{}
	added := false
	for service, endpoints := range changes {
		sort.Sort(byKey(endpoints))
		was, known := old.services[service]
		if slices.Equal(was.endpoints, endpoints) {
			continue
		}
		if known {
			fire = append(fire, was.changed)
		} else {
			added = true
		}
		if len(endpoints) == 0 {
			delete(next.services, service)
			continue
		}
		if next.services == nil {
			next.services = make(map[string]entry)
		}
		next.services[service] = entry{slices.Clip(endpoints), make(chan struct{})}
	}
	if added {
		fire = append(fire, old.unknown)
		next.unknown = make(chan struct{})
	}
	if len(fire) == 0 {
		return
	}
	t.view.Store(next)
	for _, c := range fire {
		close(c)
	}
}

// Replace makes these endpoints all that is known. Of those who call it and Update, one at a time may.
func (t *Table) Replace(endpoints []discovery.Endpoint) {
	changes := make(map[string][]discovery.Endpoint)
	for service := range t.view.Load().services {
		changes[service] = nil
	}
	for _, ep := range endpoints {
		changes[ep.Service] = append(changes[ep.Service], ep)
	}
	t.Update(changes)
}

// Appeared closes the Changed of all unknown services: one of them may have become known to whoever fills the table
// when it is asked for.
func (t *Table) Appeared() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retired {
		return
	}
	old := t.view.Load()
	t.view.Store(&view{old.services, make(chan struct{})})
	close(old.unknown)
}

// Retire closes the Changed of all services, for good: whoever waits is to ask another table, which has taken this one's place. Lookups
// answer as before; what Update says is ignored.
func (t *Table) Retire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retired {
		return
	}
	t.retired = true
	old := t.view.Load()
	last := &view{make(map[string]entry, len(old.services)), make(chan struct{})}
	close(last.unknown)
	for service, e := range old.services {
		last.services[service] = entry{e.endpoints, last.unknown}
	}
	t.view.Store(last)
	close(old.unknown)
	for _, e := range old.services {
		close(e.changed)
	}
}

// byKey orders by port first, so that the endpoints of one port lie together. It is a sort.Interface, which costs a program less than
// another instance of slices.SortFunc.
type byKey []discovery.Endpoint

func (s byKey) Len() int      { return len(s) }
func (s byKey) Swap(i, j int) { s[i], s[j] = s[j], s[i] }

func (s byKey) Less(i, j int) bool {
	a, b := &s[i], &s[j]
	return cmp.Or(
		cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Instance, b.Instance),
		a.Addr.Compare(b.Addr),
	) < 0
}
