package meshgrpc_test

import (
	"sync"
	"testing"

	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

func TestHealthFollowsReadiness(t *testing.T) {
	net := meshtest.New(t, meshtest.Allow("payments", "orders"))
	payments := net.Join(t, "payments")
	s := serve(t, payments, &greeter{})
	c := healthpb.NewHealthClient(connect(t, net.Join(t, "orders"), "payments"))

	for name, want := range map[string]codes.Code{"": codes.OK, service: codes.OK, "other": codes.NotFound} {
		res, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
		if status.Code(err) != want || want == codes.OK && res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("Check(%q) = %v, %v", name, res, err)
		}
	}
	list, err := c.List(t.Context(), &healthpb.HealthListRequest{})
	if err != nil || list.GetStatuses()[service].GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("List = %v, %v", list, err)
	}
	unknown, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := unknown.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		t.Errorf("Watch of an unknown service: %v, %v", r, err)
	}
	watch, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := watch.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("Watch: %v, %v", r, err)
	}
	for ready, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_NOT_SERVING, healthpb.HealthCheckResponse_SERVING} {
		payments.SetReady(ready == 1)
		if r, err := watch.Recv(); err != nil || r.GetStatus() != want {
			t.Errorf("Watch of SetReady: %v, %v, want %v", r, err, want)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := payments.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	if r, err := watch.Recv(); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("Watch while it drains: %v, %v", r, err)
	}
	if res, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("Check while it drains: %v, %v", res, err)
	}
	// Both watches end, or the server would wait for them.
	for _, w := range []healthpb.Health_WatchClient{watch, unknown} {
		if _, err := w.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("the end of a watch: %v", err)
		}
	}
	s.GracefulStop()
	wg.Wait()
}
