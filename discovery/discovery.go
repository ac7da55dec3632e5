// Package discovery answers where a service is. A [Resolver] knows the endpoints of
// services; a [Registrar] announces the ones that this process serves.
//
// Discovery is advisory: an [Endpoint] is only an address. Who answers there is decided by
// the certificate it shows, so a wrong or forged endpoint costs a connection attempt and
// nothing else.
//
// Implementations: [github.com/intramesh/mesh/discovery/static] and
// [github.com/intramesh/mesh/discovery/gossip]. Each passes the suite in
// [github.com/intramesh/mesh/discovery/discoverytest]. [Merge] makes one of several.
package discovery

import (
	"context"
	"net/netip"
)

// State says whether an endpoint wants traffic.
type State uint8

const (
	// Ready endpoints take traffic. It is the zero value.
	Ready State = iota
	// Starting endpoints listen but do not want traffic yet.
	Starting
	// Draining endpoints finish what they have and want nothing new.
	Draining
)

// String returns "ready", "starting" or "draining".
func (s State) String() string {
	switch s {
	case Ready:
		return "ready"
	case Starting:
		return "starting"
	case Draining:
		return "draining"
	}
	return "invalid"
}

// An Endpoint is one named port of one instance of a service. It is a comparable value.
type Endpoint struct {
	// Service is the name that is dialed, "payments" or "billing/invoices".
	Service string
	// Port is the named port, "" for the default one.
	Port string
	// Instance identifies the process; it differs after a restart. An (Instance, Service,
	// Port) triple is announced at most once.
	Instance string
	// Addr is where to connect.
	Addr netip.AddrPort
	// Also are other IPs of the same process, to try when Addr does not answer: the one of IPv6 beside that of IPv4, or of a second
	// network. The port is Addr's. See [Endpoint.Addrs].
	Also AddrList
	// Zone is the locality of the instance: "eu-west-1a", or with its region "eu-west-1/eu-west-1a". It may be empty.
	Zone string
	// Weight is the relative capacity; 0 counts as 1.
	Weight uint16
	// State says whether the endpoint wants traffic.
	State State
	// Suspect is set by a resolver that has reason to think the endpoint is gone, yet
	// not enough to drop it. Balancers use it last. It is never announced.
	Suspect bool
}

// A Snapshot is what a resolver knew of one service at one moment.
type Snapshot struct {
	// Endpoints are all named ports of the service, in every state, in a stable
	// order. The slice is shared: callers must not modify it.
	Endpoints []Endpoint
	// Changed is closed when a newer snapshot of this service can be had. It is never nil. The
	// one of an unknown service may also be closed because another service became known.
	Changed <-chan struct{}
}

// A Resolver finds the endpoints of services. It is safe for concurrent use.
type Resolver interface {
	// Lookup returns what is known of a service now. It answers from memory: it never
	// blocks on the network and costs no more than a map lookup. An unknown
	// service has no endpoints; its Changed channel fires when it gets one.
	Lookup(service string) Snapshot
}

// A Registrar announces endpoints of this process to the others. A Resolver that is also
// a Registrar is used by mesh.Listen and mesh.Shutdown. It is safe for concurrent use.
type Registrar interface {
	// Register announces an endpoint, or replaces the one announced with the same Service
	// and Port (to say that it drains, for example). Instance may be left empty: the
	// registrar fills in its own. It returns once the change is on its way.
	Register(ctx context.Context, ep Endpoint) error
	// Deregister withdraws the endpoint with this Service and Port. Withdrawing what was never
	// announced is not an error.
	Deregister(ctx context.Context, ep Endpoint) error
}
