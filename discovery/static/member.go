package static

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"

	"github.com/intramesh/mesh/discovery"
)

// A Member is one instance's view of a shared [Directory]: it sees everything, and announces
// under its own instance. It is safe for concurrent use.
type Member struct {
	dir      *Directory
	instance string
	closed   bool // guarded by dir.mu
}

// Member returns a view that announces as instance, which must be unique in the directory.
func (d *Directory) Member(instance string) *Member {
	return &Member{dir: d, instance: instance}
}

// Instance returns the name that the member announces under.
func (m *Member) Instance() string { return m.instance }

// Lookup implements [discovery.Resolver].
func (m *Member) Lookup(service string) discovery.Snapshot { return m.dir.Lookup(service) }

// Register implements [discovery.Registrar]. The endpoint's Instance is replaced by the
// member's. After Close the error is net.ErrClosed.
func (m *Member) Register(ctx context.Context, ep discovery.Endpoint) error {
	ep.Instance = m.instance
	return m.dir.register(ctx, ep, m)
}

// Deregister implements [discovery.Registrar].
func (m *Member) Deregister(ctx context.Context, ep discovery.Endpoint) error {
	ep.Instance = m.instance
	return m.dir.Deregister(ctx, ep)
}

// Close withdraws everything that the member announced. It always returns nil.
func (m *Member) Close() error {
	d := m.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	m.closed = true
	touched := make(map[string]bool)
	maps.DeleteFunc(d.endpoints, func(k key, _ discovery.Endpoint) bool {
		if k.instance != m.instance {
			return false
		}
		touched[k.service] = true
		return true
	})
	d.publish(touched)
	return nil
}

func (d *Directory) register(ctx context.Context, ep discovery.Endpoint, by *Member) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("static: register: %w", err)
	}
	if ep.Service == "" {
		return errors.New("static: register: endpoint has no service")
	}
	if !ep.Addr.IsValid() || ep.Addr.Port() == 0 {
		return fmt.Errorf("static: register %s: no address to connect to", ep.Service)
	}
	ep.Suspect = false
	d.mu.Lock()
	defer d.mu.Unlock()
	if by != nil && by.closed {
		return fmt.Errorf("static: register %s: %w", ep.Service, net.ErrClosed)
	}
	d.endpoints[keyOf(ep)] = ep
	d.publish(map[string]bool{ep.Service: true})
	return nil
}
