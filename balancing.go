package mesh

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/balance"
	"github.com/intramesh/mesh/discovery"
)

// balancers keeps one set of endpoints per target, so that a failure seen by a dial, the HTTP
// transport or an adapter is known to all of them.
type balancers struct {
	resolver discovery.Resolver
	zone     string // of this process

	mu   sync.Mutex
	sets map[target]*endpointSet
}

func newBalancers(r discovery.Resolver, zone string) *balancers {
	return &balancers{resolver: r, zone: zone, sets: make(map[target]*endpointSet)}
}

// endpoints returns the target's set. A target that discovery does not know is not remembered:
// names can come from outside, and must not fill the memory.
func (b *balancers) endpoints(t target) *endpointSet {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sets[t]; s != nil {
		return s
	}
	s := &endpointSet{resolver: b.resolver, target: t, set: balance.New[endpoint]()}
	s.set.In(b.zone)
	s.refresh(nil)
	if s.set.Len() > 0 {
		b.sets[t] = s
	}
	return s
}

// An awaiter is a resolver that has to ask for a service that was not looked up before, as [gossip.Observer].
type awaiter interface {
	Await(ctx context.Context, service string)
}

// endpoints returns the target's set. A service that nobody is known of is asked for, where that can be.
func (m *Mesh) endpoints(ctx context.Context, t target) *endpointSet {
	s := m.balance.endpoints(t)
	if m.await == nil || len(s.view.Load().all) > 0 || len(s.current().all) > 0 {
		return s
	}
	m.await(ctx, t.service)
	return m.balance.endpoints(t)
}

// endpoint is one instance at one address. A restarted instance is a new endpoint, of which nothing is known.
type endpoint struct {
	instance string
	addr     netip.AddrPort
}

// picked is one use of an endpoint; see [balance.Picked] for what its owner owes.
type picked = balance.Picked[endpoint]

// endpointSet follows what discovery says of one target. It does so when it is asked, without a
// goroutine.
type endpointSet struct {
	resolver discovery.Resolver
	target   target
	set      *balance.Set[endpoint]
	view     atomic.Pointer[endpointView]

	mu       sync.Mutex              // serialises refresh
	answered map[netip.AddrPort]path // of endpoints that have several addresses
}

// endpointView is one snapshot of discovery, seen from the target. It is immutable.
type endpointView struct {
	all     []discovery.Endpoint                // of the service, in all states and of all ports
	usable  map[endpoint]time.Time              // since when, if they came later than others
	also    map[netip.AddrPort][]netip.AddrPort // the other addresses of those that have some
	changed <-chan struct{}
}

// current returns what discovery says now.
func (s *endpointSet) current() *endpointView {
	v := s.view.Load()
	select {
	case <-v.changed:
		return s.refresh(v)
	default:
		return v
	}
}

func (s *endpointSet) refresh(seen *endpointView) *endpointView {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.view.Load(); v != seen {
		return v // another caller was first
	}
	snap := s.resolver.Lookup(s.target.service)
	v := &endpointView{all: snap.Endpoints, usable: make(map[endpoint]time.Time), changed: snap.Changed}
	var choices []balance.Endpoint[endpoint]
	for _, ep := range snap.Endpoints {
		c := choice(ep)
		if _, dup := v.usable[c.Key]; dup || ep.Port != s.target.port || ep.State != discovery.Ready {
			continue
		}
		if addrs := ep.Addrs(); len(addrs) > 1 {
			if v.also == nil {
				v.also = make(map[netip.AddrPort][]netip.AddrPort)
			}
			v.also[ep.Addr] = addrs[1:]
		}
		c.Since = seen.since(c.Key)
		v.usable[c.Key] = c.Since
		choices = append(choices, c)
	}
	for addr := range s.answered {
		if v.also[addr] == nil {
			delete(s.answered, addr)
		}
	}
	s.set.Update(choices)
	s.view.Store(v)
	return v
}

func choice(ep discovery.Endpoint) balance.Endpoint[endpoint] {
	c := balance.Endpoint[endpoint]{Key: endpoint{ep.Instance, ep.Addr}, Weight: ep.Weight, Zone: ep.Zone}
	if ep.Suspect {
		c.Tier = 1
	}
	return c
}

// failed ejects what is at an address, for one who did not pick it.
func (s *endpointSet) failed(addr netip.AddrPort) {
	for ep := range s.current().usable {
		if ep.addr == addr {
			s.set.Failed(ep)
		}
	}
}

// since returns when an endpoint of the next view began to be usable: the zero time for those of the first.
func (v *endpointView) since(key endpoint) time.Time {
	if v == nil || len(v.usable) == 0 {
		return time.Time{}
	}
	if t, known := v.usable[key]; known {
		return t
	}
	return time.Now()
}

// errAllTried is returned by pick when there are endpoints, but none that was not tried.
var errAllTried = errors.New("all endpoints were tried")

// pick chooses an endpoint that was not tried. Without an error the caller owes the outcome and
// Done. The error is errAllTried, or a [*NoEndpointsError].
func (s *endpointSet) pick(tried ...endpoint) (picked, error) {
	v := s.current()
	if p, ok := s.set.Pick(tried...); ok {
		return p, nil
	}
	if len(v.usable) > 0 {
		return picked{}, errAllTried
	}
	return picked{}, NewNoEndpointsError(s.target.port, v.all)
}

func portName(port string) string {
	if port == "" {
		return "default"
	}
	return port
}
