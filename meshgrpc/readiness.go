package meshgrpc

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/health"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer/pickfirst"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// FollowHealth has m's readiness follow the status that this process sets for a service, "" being the whole server, at once and
// whenever it changes: m is ready while it is SERVING. Nobody else should call [mesh.Mesh.SetReady] meanwhile. Following ends when
// m drains, or by stop, which leaves the readiness as it is. The other way round, [RegisterHealth] shows m's readiness.
func FollowHealth(m *mesh.Mesh, s *grpchealth.Server, service string) (stop func()) {
	m.SetReady(false)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = s.Watch(&healthpb.HealthCheckRequest{Service: service}, &statusWatch{ctx: ctx, mesh: m}) // it ends with ctx
	})
	wg.Go(func() {
		select {
		case <-m.Draining():
			cancel()
		case <-ctx.Done():
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// statusWatch is the stream of a watch within the process. Watch uses these two methods alone.
type statusWatch struct {
	grpc.ServerStream

	ctx  context.Context //nolint:containedctx // streams have one
	mesh *mesh.Mesh
}

func (w *statusWatch) Context() context.Context { return w.ctx }

func (w *statusWatch) Send(r *healthpb.HealthCheckResponse) error {
	w.mesh.SetReady(r.GetStatus() == healthpb.HealthCheckResponse_SERVING)
	return nil
}

// HealthCheck returns a check for [health.Watch] that asks the standard health service behind a connection of the application's, to a
// server of its own on localhost for example. It succeeds when the service, "" being the whole server, is SERVING.
func HealthCheck(cc grpc.ClientConnInterface, service string) health.Check {
	c := healthpb.NewHealthClient(cc)
	return func(ctx context.Context) error {
		r, err := c.Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		if err == nil && r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			err = fmt.Errorf("gRPC service %q is %v", service, r.GetStatus())
		}
		return err
	}
}

// HealthProbe is for [health.Endpoints]: it asks the standard health service of each instance, over a connection that is kept. The
// rules have to allow the method, "grpc.health.v1.Health/Check". What [NewServer] returns is SERVING while its mesh is ready.
func HealthProbe(service string) health.Prober {
	return func(m *mesh.Mesh, address string) (func(netip.AddrPort) health.Probe, error) {
		return func(addr netip.AddrPort) health.Probe {
			dial := func(ctx context.Context, _ string) (net.Conn, error) { return m.DialEndpoint(ctx, address, addr, alpn) }
			conn, err := grpc.NewClient("passthrough:///"+addr.String(), append(DialOptions(m),
				grpc.WithContextDialer(dial), grpc.WithIdleTimeout(time.Minute),
				grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"`+pickfirst.Name+`": {}}]}`))...)
			if err != nil {
				return &healthProbe{check: func(context.Context) error { return err }}
			}
			return &healthProbe{conn, HealthCheck(conn, service)}
		}, nil
	}
}

type healthProbe struct {
	conn  *grpc.ClientConn // nil when it could not be made
	check health.Check
}

func (p *healthProbe) Check(ctx context.Context) error { return p.check(ctx) }

func (p *healthProbe) Close() {
	if p.conn != nil {
		_ = p.conn.Close()
	}
}
