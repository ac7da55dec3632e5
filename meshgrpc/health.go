package meshgrpc

import (
	"context"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// RegisterHealth registers the standard health service
// (https://github.com/grpc/grpc/blob/master/doc/health-checking.md). Everything that s has
// registered is SERVING while m is ready: see [mesh.Mesh.SetReady]. Like any method, its own ("grpc.health.v1.Health/Check") can be
// called by those whom the rules allow. To set m's readiness from a health server of the application's own, see [FollowHealth].
func RegisterHealth(s *grpc.Server, m *mesh.Mesh) {
	healthpb.RegisterHealthServer(s, &healthServer{server: s, mesh: m})
}

type healthServer struct {
	healthpb.UnimplementedHealthServer
	server *grpc.Server
	mesh   *mesh.Mesh
}

func (h *healthServer) status() healthpb.HealthCheckResponse_ServingStatus {
	if state, _ := h.mesh.State(); state != discovery.Ready {
		return healthpb.HealthCheckResponse_NOT_SERVING
	}
	return healthpb.HealthCheckResponse_SERVING
}

// knows reports whether there is such a service; the empty name is the server as a whole.
func (h *healthServer) knows(service string) bool {
	if service == "" {
		return true
	}
	_, ok := h.server.GetServiceInfo()[service]
	return ok
}

func (h *healthServer) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if !h.knows(r.GetService()) {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &healthpb.HealthCheckResponse{Status: h.status()}, nil
}

func (h *healthServer) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	statuses := map[string]*healthpb.HealthCheckResponse{"": {Status: h.status()}}
	for name := range h.server.GetServiceInfo() {
		statuses[name] = &healthpb.HealthCheckResponse{Status: h.status()}
	}
	return &healthpb.HealthListResponse{Statuses: statuses}, nil
}

// Watch tells the status now and whenever it changes. When the mesh drains it ends with UNAVAILABLE, since a
// stream without end would keep GracefulStop waiting. An unknown service stays unknown: all are registered before
// the server serves.
func (h *healthServer) Watch(r *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	known := h.knows(r.GetService())
	said := healthpb.HealthCheckResponse_UNKNOWN
	for {
		state, changed := h.mesh.State()
		now := healthpb.HealthCheckResponse_NOT_SERVING
		switch {
		case !known:
			now = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
		case state == discovery.Ready:
			now = healthpb.HealthCheckResponse_SERVING
		}
		if now != said {
			if err := s.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			said = now
		}
		if state == discovery.Draining {
			return status.Error(codes.Unavailable, "the server is draining")
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return status.FromContextError(s.Context().Err()).Err()
		}
	}
}
