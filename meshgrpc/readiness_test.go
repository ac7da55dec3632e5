package meshgrpc_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/health"
	"github.com/intramesh/mesh/meshgrpc"
	"github.com/intramesh/mesh/meshtest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

func wantState(t *testing.T, m *mesh.Mesh, when string, want discovery.State) {
	t.Helper()
	synctest.Wait()
	if got, _ := m.State(); got != want {
		t.Errorf("%s: %v, want %v", when, got, want)
	}
}

// TestFollowHealth: what the application says of itself by its health server is what the others are told.
func TestFollowHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meshtest.New(t).Join(t, "payments")
		s := grpchealth.NewServer()
		stop := meshgrpc.FollowHealth(m, s, service)
		wantState(t, m, "unknown", discovery.Starting)
		for _, c := range []struct {
			status healthpb.HealthCheckResponse_ServingStatus
			want   discovery.State
		}{
			{healthpb.HealthCheckResponse_NOT_SERVING, discovery.Starting},
			{healthpb.HealthCheckResponse_SERVING, discovery.Ready},
			{healthpb.HealthCheckResponse_UNKNOWN, discovery.Starting},
			{healthpb.HealthCheckResponse_SERVING, discovery.Ready},
		} {
			s.SetServingStatus(service, c.status)
			s.SetServingStatus("other", healthpb.HealthCheckResponse_NOT_SERVING)
			wantState(t, m, c.status.String(), c.want)
		}
		stop()
		stop()
		s.SetServingStatus(service, healthpb.HealthCheckResponse_NOT_SERVING)
		wantState(t, m, "after stop", discovery.Ready)

		stop = meshgrpc.FollowHealth(m, s, "")
		wantState(t, m, "the whole server", discovery.Ready)
		s.Shutdown()
		wantState(t, m, "shut down", discovery.Starting)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait() // it ends by itself
		stop()
	})
}

// TestHealthCheck: a server of the application's own, on localhost.
func TestHealthCheck(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, status := grpc.NewServer(), grpchealth.NewServer()
	healthpb.RegisterHealthServer(s, status)
	serveOn(t, s, ln)
	cc, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	m := meshtest.New(t).Join(t, "payments")
	defer health.Watch(m, meshgrpc.HealthCheck(cc, service), health.Config{Interval: 10 * time.Millisecond, Fall: 1, Rise: 1})()
	for _, c := range []struct {
		status healthpb.HealthCheckResponse_ServingStatus
		want   discovery.State
	}{
		{healthpb.HealthCheckResponse_SERVING, discovery.Ready},
		{healthpb.HealthCheckResponse_NOT_SERVING, discovery.Starting},
		{healthpb.HealthCheckResponse_SERVING, discovery.Ready},
	} {
		status.SetServingStatus(service, c.status)
		for {
			got, changed := m.State()
			if got == c.want {
				break
			}
			select {
			case <-changed:
			case <-time.After(10 * time.Second):
				t.Fatalf("%v: %v, want %v", c.status, got, c.want)
			}
		}
	}
}

// TestHealthProbe: of two instances, one that says it can't serve gets no calls; when asking is denied, nobody is ill.
func TestHealthProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := meshtest.New(t, meshtest.Allow("payments", "orders"))
		var calls [2]atomic.Int32
		var status [2]*grpchealth.Server
		for i := range status {
			m := n.Join(t, "payments")
			ln, err := m.Listen(t.Context(), "tcp", ":0")
			if err != nil {
				t.Fatal(err)
			}
			s := grpc.NewServer(append(meshgrpc.ServerOptions(m), grpc.ChainUnaryInterceptor(
				func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
					if info.FullMethod != healthpb.Health_Check_FullMethodName {
						calls[i].Add(1)
					}
					return handle(ctx, req)
				}))...)
			pb.RegisterTestServiceServer(s, &greeter{})
			status[i] = grpchealth.NewServer()
			status[i].SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
			healthpb.RegisterHealthServer(s, status[i])
			serveOn(t, s, ln)
		}
		var log bytes.Buffer
		orders := n.JoinConfig(t, mesh.Config{Service: "orders", Logger: slog.New(slog.NewTextHandler(&log, nil))})
		stop, err := health.Endpoints(orders, "payments", meshgrpc.HealthProbe(service), health.Config{Interval: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		c := client(t, orders, "payments")
		share := func(when string, lo, hi int32) {
			t.Helper()
			for range 60 {
				if _, err := greet(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			if got := calls[0].Swap(0); got < lo || got > hi {
				t.Errorf("%s: one of two got %d of 60", when, got)
			}
			calls[1].Store(0)
		}
		pass := func() { <-time.After(6 * time.Second) }
		share("connecting", 0, 60)
		pass()
		share("both are well", 10, 50)
		status[0].SetServingStatus(service, healthpb.HealthCheckResponse_NOT_SERVING)
		pass()
		share("one is ill", 0, 0)
		n.SetRules(t, allowMethods(t, pb.TestService_UnaryCall_FullMethodName[1:]))
		pass()
		share("asking is denied", 10, 50)
		stop()
		if !bytes.Contains(log.Bytes(), []byte("deny health checks")) {
			t.Errorf("nothing is said of it: %s", &log)
		}
	})
}
