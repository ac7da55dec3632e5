package meshgrpc

import (
	"context"

	"github.com/intramesh/mesh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// RegisterHealth registers the standard health service
// (https://github.com/grpc/grpc/blob/master/doc/health-checking.md). Everything that s has
// registered is SERVING, until m drains or is closed. Like any method, its own ("grpc.health.v1.Health/Check") can be
// called by those whom the rules allow.
func RegisterHealth(s *grpc.Server, m *mesh.Mesh) {
	healthpb.RegisterHealthServer(s, &health{server: s, draining: m.Draining()})
}

type health struct {
	healthpb.UnimplementedHealthServer
	server   *grpc.Server
	draining <-chan struct{}
}

func (h *health) status() healthpb.HealthCheckResponse_ServingStatus {
	select {
	case <-h.draining:
		return healthpb.HealthCheckResponse_NOT_SERVING
	default:
		return healthpb.HealthCheckResponse_SERVING
	}
}

// knows reports whether there is such a service; the empty name is the server as a whole.
func (h *health) knows(service string) bool {
	if service == "" {
		return true
	}
	_, ok := h.server.GetServiceInfo()[service]
	return ok
}

func (h *health) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if !h.knows(r.GetService()) {
		return nil, status.Error(codes.NotFound, "unknown service")
	}
	return &healthpb.HealthCheckResponse{Status: h.status()}, nil
}

func (h *health) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	statuses := map[string]*healthpb.HealthCheckResponse{"": {Status: h.status()}}
	for name := range h.server.GetServiceInfo() {
		statuses[name] = &healthpb.HealthCheckResponse{Status: h.status()}
	}
	return &healthpb.HealthListResponse{Statuses: statuses}, nil
}

// Watch tells the status now and once more when the mesh drains; then it ends with UNAVAILABLE, since a
// stream without end would keep GracefulStop waiting. An unknown service stays unknown: all are registered before
// the server serves.
func (h *health) Watch(r *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	now := h.status()
	if !h.knows(r.GetService()) {
		now = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	}
	if err := s.Send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
		return err
	}
	select {
	case <-h.draining:
	case <-s.Context().Done():
		return status.FromContextError(s.Context().Err()).Err()
	}
	if now == healthpb.HealthCheckResponse_SERVING {
		if err := s.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}); err != nil {
			return err
		}
	}
	return status.Error(codes.Unavailable, "the server is draining")
}
