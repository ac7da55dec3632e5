package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/meshgrpc"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
)

// otherRules is how many rules of other services the bench's own stand among.
const otherRules = 1000

// alpnCold is an application protocol of our own. A connection that speaks one is verified and decided like any other, and ends
// when it is closed: the mesh can't know that another stream may follow.
const alpnCold = "bench"

// ourPort names the mesh port of a service: raw connections come by the default one.
func ourPort(service string) string {
	if service == svcRaw {
		return ""
	}
	return service
}

// networkOf is TCP alone, which is how peers on other hosts are reached, except for the contender that may make use of being on one.
func networkOf(contender string) mesh.Network {
	if contender == nameHost {
		return nil
	}
	return &struct {
		net.Dialer
		net.ListenConfig
	}{}
}

func ourServer(m material, network mesh.Network) (serverEnd, error) {
	rules := new(switchable)
	if err := rules.set(true); err != nil {
		return serverEnd{}, err
	}
	n, err := mesh.Join(context.Background(), mesh.Config{
		Service: serverName, Identity: m.source(), Discovery: static.New(), Policy: rules, Network: network,
	})
	if err != nil {
		return serverEnd{}, err
	}
	return serverEnd{
		listen: func(service string) (net.Listener, error) {
			o := mesh.ListenOptions{Port: ourPort(service)}
			switch service {
			case svcRaw:
			case svcCold:
				o.ALPN = []string{alpnCold}
			default:
				o.ALPN = alpn(service)
			}
			return n.Listen(context.Background(), "tcp", "127.0.0.1:0", o)
		},
		wrap:   func(service string, h http.Handler) http.Handler { return n.Handler(h, ourPort(service)) },
		grpc:   func() *grpc.Server { return grpc.NewServer(meshgrpc.ServerOptions(n, ourPort(svcGRPC))...) },
		change: rules.set,
	}, nil
}

func ourClient(m material, addrs map[string]string, network mesh.Network) (clientEnd, error) {
	var endpoints []discovery.Endpoint
	var cold netip.AddrPort
	for service, addr := range addrs {
		a, err := netip.ParseAddrPort(addr)
		if err != nil {
			return clientEnd{}, err
		}
		if service == svcCold {
			cold = a
			continue
		}
		endpoints = append(endpoints, discovery.Endpoint{Service: serverName, Port: ourPort(service), Addr: a})
	}
	n, err := mesh.Join(context.Background(), mesh.Config{
		Service: m.svid.ID.Path()[1:], Identity: m.source(), Discovery: static.New(endpoints...), Network: network,
	})
	if err != nil {
		return clientEnd{}, err
	}
	return clientEnd{
		dial: func(ctx context.Context) (net.Conn, error) { return n.Dial(ctx, "tcp", serverName) },
		cold: func(ctx context.Context) (net.Conn, error) {
			return n.DialEndpoint(ctx, serverName+":"+ourPort(svcCold), cold, alpnCold)
		},
		http: func(service string) (*http.Client, string) {
			return n.HTTPClient(), "http://_" + ourPort(service) + "." + serverName
		},
		grpc: func() (*grpc.ClientConn, error) { return meshgrpc.NewClient(n, serverName+":"+ourPort(svcGRPC)) },
	}, nil
}

// ruleDocuments lets the client call everything of the server that the bench uses, among rules of other services. The
// guest may have raw connections, if there is to be one.
func ruleDocuments(guest bool) []policy.Document {
	from := []policy.Source{{Services: []string{clientName}}}
	allow := func(name, service string, from []policy.Source, to ...policy.Operation) policy.Document {
		return policy.Document{
			APIVersion: policy.APIVersion, Kind: policy.Kind, Metadata: policy.Metadata{Name: name},
			Spec: policy.Spec{Service: service, Action: policy.ActionAllow, Rules: []policy.Rule{{From: from, To: to}}},
		}
	}
	docs := []policy.Document{
		allow("http", serverName, from, policy.Operation{Methods: []string{http.MethodGet}, Paths: []string{"/bytes/{n}"}}),
		allow("grpc", serverName, from, policy.Operation{GRPC: []string{"bench.v1.Echo/*"}}),
	}
	docs = append(docs, allow("raw", serverName, from, policy.Operation{Ports: []string{"", ourPort(svcCold)}}))
	if guest {
		docs = append(docs, allow("guest", serverName, []policy.Source{{Services: []string{guestName}}}, policy.Operation{Ports: []string{""}}))
	}
	for i := range otherRules {
		docs = append(docs, allow(fmt.Sprint("other-", i), fmt.Sprint("service-", i/10),
			[]policy.Source{{Services: []string{fmt.Sprint("caller-", i)}}}, policy.Operation{Methods: []string{http.MethodPost}}))
	}
	return docs
}

// switchable is an authorizer whose rules can change, as a policy.Syncer's do.
type switchable struct {
	engine atomic.Pointer[policy.Engine]

	mu      sync.Mutex
	changed chan struct{}
}

func (s *switchable) set(guest bool) error {
	e, err := policy.Static(spiffeid.RequireTrustDomainFromString(trustDomain), ruleDocuments(guest)...)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.engine.Store(e)
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
	return nil
}

func (s *switchable) Authorize(ctx context.Context, r *policy.Request) policy.Decision {
	return s.engine.Load().Authorize(ctx, r)
}

// Pin is what policy.Pinned calls.
func (s *switchable) Pin(r *policy.Request) policy.Authorizer { return policy.PinTo(&s.engine, r) }

// Engine is what policy.EngineOf calls.
func (s *switchable) Engine() *policy.Engine { return s.engine.Load() }

func (s *switchable) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// connState returns the state of a contender's TLS, if it has some.
func connState(c net.Conn) (tls.ConnectionState, bool) {
	if t, ok := c.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return t.ConnectionState(), true
	}
	return tls.ConnectionState{}, false
}
