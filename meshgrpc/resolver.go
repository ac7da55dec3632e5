package meshgrpc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"
)

const scheme = "mesh"

// targetKey is the attribute of an address that says which service ("payments:admin") must answer
// there. It comes from the target alone: no authority, server name or proxy can change whom the
// dialer verifies.
type targetKey struct{}

// dialer connects to the addresses that our resolver made, and to no others.
func dialer(m *mesh.Mesh) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		target, ok := credentials.ClientHandshakeInfoFromContext(ctx).Attributes.Value(targetKey{}).(string)
		if !ok {
			return nil, fmt.Errorf("meshgrpc: address %s does not come from the resolver of the mesh: use a %s:/// target", addr, scheme)
		}
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, fmt.Errorf("meshgrpc: %w", err)
		}
		return m.DialEndpoint(ctx, target, ap, alpn)
	}
}

type resolverBuilder struct{ mesh *mesh.Mesh }

func (resolverBuilder) Scheme() string { return scheme }

// OverrideAuthority is what HTTP clients of the mesh send as the host: "billing/invoices" is
// "billing.invoices" there.
func (resolverBuilder) OverrideAuthority(t resolver.Target) string {
	return strings.ReplaceAll(t.Endpoint(), "/", ".")
}

func (b resolverBuilder) Build(t resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	if t.URL.Host != "" {
		return nil, fmt.Errorf("meshgrpc: target %s: want %s:///service", t, scheme)
	}
	service, port, err := mesh.ParseAddress(t.Endpoint())
	if err != nil {
		return nil, fmt.Errorf("meshgrpc: %w", err)
	}
	set, err := b.mesh.Balancer(t.Endpoint())
	if err != nil {
		return nil, fmt.Errorf("meshgrpc: %w", err)
	}
	w := &watcher{
		mesh: b.mesh, set: set, from: b.mesh.Discovery(), cc: cc, target: t.Endpoint(), service: service, port: port,
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.wg.Go(w.run)
	return w, nil
}

// watcher is a resolver.Resolver that follows discovery.
type watcher struct {
	mesh                  *mesh.Mesh
	set                   *mesh.Balancer
	from                  discovery.Resolver
	cc                    resolver.ClientConn
	target, service, port string

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// ResolveNow does nothing: what discovery knows has been told.
func (w *watcher) ResolveNow(resolver.ResolveNowOptions) {}

// Close waits for the watcher's goroutine.
func (w *watcher) Close() {
	w.cancel()
	w.wg.Wait()
}

func (w *watcher) run() {
	w.mesh.Await(w.ctx, w.service)
	for {
		snap := w.from.Lookup(w.service)
		if eps := w.usable(snap.Endpoints); len(eps) > 0 {
			// The error says that the balancer is being replaced or closed; it will ask again.
			_ = w.cc.UpdateState(resolver.State{Endpoints: eps})
		} else {
			// Connections that exist stay in use: better stale than none.
			w.cc.ReportError(&mesh.DialError{Service: w.service, Port: w.port, Err: mesh.NewNoEndpointsError(w.port, snap.Endpoints)})
		}
		select {
		case <-snap.Changed:
		case <-w.ctx.Done():
			return
		}
	}
}

// usable returns the endpoints that want traffic.
func (w *watcher) usable(all []discovery.Endpoint) []resolver.Endpoint {
	var usable []resolver.Endpoint
	for _, ep := range all {
		if ep.Port != w.port || ep.State != discovery.Ready {
			continue
		}
		usable = append(usable, resolver.Endpoint{
			Addresses: []resolver.Address{{
				Addr:       ep.Addr.String(),
				Attributes: attributes.New(targetKey{}, w.target),
			}},
			Attributes: attributes.New(endpointKey{}, ep).WithValue(calleeKey{}, callee{w.mesh, w.target, w.set}),
		})
	}
	return usable
}
