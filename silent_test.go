package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/internal/testserve"
	"github.com/intramesh/mesh/meshtest"
)

// silent returns an endpoint of payments that accepts all connections and says nothing.
func silent(t *testing.T, n *meshtest.Net, port uint16) discovery.Endpoint {
	t.Helper()
	ln, err := n.Network().Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	wait := testserve.Each(ln, func(c net.Conn) {
		<-end
		_ = c.Close()
	})
	t.Cleanup(func() {
		_ = ln.Close()
		close(end)
		wait()
	})
	return discovery.Endpoint{Service: "payments", Instance: "silent", Addr: addrOf(ln)}
}

// speaking returns an endpoint of payments that answers.
func speaking(t *testing.T, n *meshtest.Net) discovery.Endpoint {
	t.Helper()
	m := n.Join(t, "payments")
	ln, err := m.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return m.Discovery().Lookup("payments").Endpoints[0]
}

// ways are how a caller connects.
var ways = map[string]func(context.Context, *mesh.Mesh) error{
	"Dial": func(ctx context.Context, m *mesh.Mesh) error {
		c, err := m.Dial(ctx, "tcp", "payments")
		if err == nil {
			err = c.Close()
		}
		return err
	},
	"HTTP": func(ctx context.Context, m *mesh.Mesh) error {
		_, err := tryGet(ctx, m.HTTPClient(), "http://payments/")
		return err
	},
}

// TestSilentEndpoint: what accepts and says nothing costs a second, and that seldom, as long as there is another address or endpoint.
func TestSilentEndpoint(t *testing.T) {
	for name, connect := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := meshtest.New(t, meshtest.Allow("payments", "orders"))
				well := speaking(t, n)
				mute, mute2 := silent(t, n, well.Addr.Port()), silent(t, n, well.Addr.Port())
				both := well
				both.Also, both.Addr = discovery.AddrsOf(mute2.Addr.Addr(), well.Addr.Addr()), mute.Addr
				for _, c := range []struct {
					name  string
					eps   []discovery.Endpoint
					worst time.Duration // of one call
					all   time.Duration // of 100
					fails bool
				}{
					{"no other", []discovery.Endpoint{mute}, 5 * time.Second, 0, true},
					{"another one", []discovery.Endpoint{mute, well}, time.Second, 3 * time.Second, false},
					{"two others", []discovery.Endpoint{mute, mute2, well}, 3 * time.Second, 10 * time.Second, false},
					{"other addresses", []discovery.Endpoint{both}, 2 * time.Second, 3 * time.Second, false},
				} {
					orders := n.JoinConfig(t, mesh.Config{Service: "orders", Discovery: tell(c.eps...)})
					var worst, all time.Duration
					for range 100 {
						start := time.Now()
						err := connect(t.Context(), orders)
						if (err != nil) != c.fails {
							t.Fatalf("%s: %v", c.name, err)
						}
						worst = max(worst, time.Since(start))
						all += time.Since(start)
						if c.fails {
							if de, ok := errors.AsType[*mesh.DialError](err); !ok || !de.Timeout() {
								t.Errorf("%s: %v", c.name, err)
							}
							break
						}
						<-time.After(50 * time.Millisecond)
					}
					if worst > c.worst+100*time.Millisecond || !c.fails && all > c.all {
						t.Errorf("%s: at worst %v, all together %v", c.name, worst, all)
					}
					if err := orders.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}
