package mesh

import (
	"fmt"

	"github.com/intramesh/mesh/balance"
	"github.com/intramesh/mesh/discovery"
)

// ParseAddress splits what is dialed, "payments" or "billing.invoices:admin", into the service
// and its named port, as [Mesh.Dial] does. For adapters.
func ParseAddress(address string) (service, port string, err error) {
	t, err := parseTarget(address)
	return t.service, t.port, err
}

// Encode returns the denial as one line of printable ASCII, which [ParseDenied] reads: what the
// HTTP header and, in a gRPC status's details, the ErrorInfo's metadata "mesh-denied" hold. For adapters.
func (e *DeniedError) Encode() string { return encodeDenied(e) }

// ParseDenied reads what [DeniedError.Encode] wrote. It says what the peer claims: trust it as
// far as the peer. For adapters.
func ParseDenied(s string) (*DeniedError, bool) { return decodeDenied(s) }

// Avoid has an endpoint be used only when nothing better is left, for Dial, HTTP and gRPC alike, until it is called again with false or
// discovery drops the endpoint. For those who check endpoints, as package health does.
func (m *Mesh) Avoid(ep discovery.Endpoint, on bool) {
	s := m.balance.endpoints(target{ep.Service, ep.Port})
	s.current() // it may be new
	s.set.Avoid(endpoint{ep.Instance, ep.Addr}, on)
}

// EndpointKey is one instance at one address. For adapters.
type EndpointKey = endpoint

// A Balancer chooses among those endpoints of a service that an adapter can use just now. What it learns of them and what
// [Mesh.Dial], [Mesh.Transport] and other balancers do is the same: an instance that one of them saw crash gets no traffic from the
// others. For adapters.
type Balancer struct {
	all    *balancers
	target target
	set    *balance.Set[endpoint]
}

// Balancer returns one without endpoints, for what is dialed by the address.
func (m *Mesh) Balancer(address string) (*Balancer, error) {
	t, err := parseTarget(address)
	if err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	b := &Balancer{m.balance, t, balance.New[endpoint]()}
	b.set.In(m.cfg.Zone)
	return b, nil
}

// Update replaces the endpoints, and returns their keys in the same order.
func (b *Balancer) Update(endpoints []discovery.Endpoint) []EndpointKey {
	shared := b.all.endpoints(b.target)
	known := shared.current().usable
	keys := make([]EndpointKey, len(endpoints))
	choices := make([]balance.Endpoint[endpoint], len(endpoints))
	for i, ep := range endpoints {
		choices[i] = choice(ep)
		choices[i].Since = known[choices[i].Key] // of when it is known, not of when it is connected
		keys[i] = choices[i].Key
	}
	b.set.UpdateFrom(shared.set, choices)
	return keys
}

// Pick chooses an endpoint, if there is one; see [balance.Picked] for what the caller owes.
func (b *Balancer) Pick() (balance.Picked[EndpointKey], bool) { return b.set.Pick() }
