package table

import (
	"sync"

	"github.com/intramesh/mesh/discovery"
)

// Parts is a table that is filled from parts which are asked for apart: each holds some endpoints of one service. It is safe for
// concurrent use; NewParts makes one.
type Parts struct {
	*Table
	services []string
	synced   chan struct{}

	mu       sync.Mutex
	known    [][]discovery.Endpoint
	awaiting int // parts without a first answer
}

// NewParts returns an empty table with a part for each of the services, which may repeat.
func NewParts(services []string) *Parts {
	p := &Parts{
		Table: New(), services: services, synced: make(chan struct{}),
		known: make([][]discovery.Endpoint, len(services)), awaiting: len(services),
	}
	if len(services) == 0 {
		close(p.synced)
	}
	return p
}

// Synced returns a channel that is closed when each part had its first answer.
func (p *Parts) Synced() <-chan struct{} { return p.synced }

// Answered notes the first answer about a part. It is called once for each.
func (p *Parts) Answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.awaiting--; p.awaiting == 0 {
		close(p.synced)
	}
}

// Publish makes known what part i has.
func (p *Parts) Publish(i int, endpoints []discovery.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[i] = endpoints
	var all []discovery.Endpoint
	for j, eps := range p.known {
		if p.services[j] == p.services[i] {
			all = append(all, eps...)
		}
	}
	p.Update(map[string][]discovery.Endpoint{p.services[i]: all})
}
