package meshgrpc_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"github.com/intramesh/mesh/policy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pass lets virtual time pass.
func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // inside synctest

// after is a server option that has each call take so long and end with a code.
func after(d time.Duration, code codes.Code) grpc.ServerOption {
	return grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		pass(d)
		if code != codes.OK {
			return nil, status.Error(code, "it fails")
		}
		return next(ctx, req)
	})
}

// noCalls lets connections in for what it then denies: rules that lag behind.
type noCalls struct{}

func (noCalls) Authorize(_ context.Context, r *policy.Request) policy.Decision {
	d := policy.Decision{Rule: -1, Layer: r.Layer, Tell: true, Reason: "not yet"}
	if r.Deferred {
		d.Verdict = policy.Allow
	}
	return d
}

// One of three fails in 50 µs, where the others take 2 ms.
func TestFailuresAttractNoCalls(t *testing.T) {
	for _, code := range []codes.Code{
		codes.PermissionDenied, codes.ResourceExhausted, codes.Internal, codes.Unknown, codes.Unavailable, codes.OK,
	} {
		name := strings.ReplaceAll(code.String(), "OK", "denied by the mesh")
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := meshtest.New(t, meshtest.Allow("payments", "orders"))
				bad := mesh.Config{Service: "payments"}
				if code == codes.OK {
					bad.Policy = noCalls{}
				}
				serve(t, net.JoinConfig(t, bad), &greeter{name: "bad"}, after(50*time.Microsecond, code))
				for range 2 {
					serve(t, net.Join(t, "payments"), &greeter{name: "well"}, after(2*time.Millisecond, codes.OK))
				}
				c := client(t, net.Join(t, "orders"), "payments")
				for range 100 { // until all are connected
					_, _ = greet(t.Context(), c)
				}
				pass(3 * time.Second)
				var asked, failed atomic.Int64
				var wg sync.WaitGroup
				end := time.Now().Add(time.Second)
				for range 16 {
					wg.Go(func() {
						for time.Now().Before(end) {
							asked.Add(1)
							if _, err := greet(t.Context(), c); err != nil {
								pass(50 * time.Microsecond) // the mesh's own denials take no time
								failed.Add(1)
							}
						}
					})
				}
				wg.Wait()
				if failed.Load() == 0 || failed.Load() > asked.Load()/20 || asked.Load() < 4000 {
					t.Errorf("of %d calls in a second, sixteen at a time, %d went to the one of three that fails", asked.Load(), failed.Load())
				}
			})
		})
	}
}
