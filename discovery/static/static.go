// Package static is discovery without a network: a directory in memory, filled by hand
// or shared by several members of one process.
package static

import (
	"context"
	"sync"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/internal/table"
)

// self is the instance under which a Directory announces endpoints that name none.
const self = "self"

// A Directory is a [discovery.Resolver] and a [discovery.Registrar]. It is safe for
// concurrent use; New makes one.
type Directory struct {
	table *table.Table

	mu        sync.Mutex
	endpoints map[key]discovery.Endpoint
}

// key is the triple that is announced at most once.
type key struct{ instance, service, port string }

// New returns a directory that knows these endpoints. See [Directory.Set].
func New(endpoints ...discovery.Endpoint) *Directory {
	d := &Directory{table: table.New()}
	d.Set(endpoints...)
	return d
}

// Lookup implements [discovery.Resolver].
func (d *Directory) Lookup(service string) discovery.Snapshot { return d.table.Lookup(service) }

// Set replaces everything in the directory, announcements included. An endpoint
// without Instance gets its address for one; of two with the same Instance, Service and Port
// the later one counts.
func (d *Directory) Set(endpoints ...discovery.Endpoint) {
	d.mu.Lock()
	defer d.mu.Unlock()
	touched := make(map[string]bool)
	for k := range d.endpoints {
		touched[k.service] = true
	}
	d.endpoints = make(map[key]discovery.Endpoint, len(endpoints))
	for _, ep := range endpoints {
		if ep.Instance == "" {
			ep.Instance = ep.Addr.String()
		}
		d.endpoints[keyOf(ep)] = ep
		touched[ep.Service] = true
	}
	d.publish(touched)
}

// Register implements [discovery.Registrar]. Endpoints without Instance are announced under
// one that all callers share: members that must be told apart use [Directory.Member].
func (d *Directory) Register(ctx context.Context, ep discovery.Endpoint) error {
	if ep.Instance == "" {
		ep.Instance = self
	}
	return d.register(ctx, ep, nil)
}

// Deregister implements [discovery.Registrar].
func (d *Directory) Deregister(_ context.Context, ep discovery.Endpoint) error {
	if ep.Instance == "" {
		ep.Instance = self
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.endpoints, keyOf(ep))
	d.publish(map[string]bool{ep.Service: true})
	return nil
}

// publish rebuilds the snapshots of the touched services; d.mu is held.
func (d *Directory) publish(touched map[string]bool) {
	changes := make(map[string][]discovery.Endpoint, len(touched))
	for service := range touched {
		changes[service] = nil
	}
	for k, ep := range d.endpoints {
		if touched[k.service] {
			changes[k.service] = append(changes[k.service], ep)
		}
	}
	d.table.Update(changes)
}

func keyOf(ep discovery.Endpoint) key { return key{ep.Instance, ep.Service, ep.Port} }
