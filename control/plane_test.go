package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/internal/etcdtest"
	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/internal/testserve"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	etcdtest.Main()
	// glog, below smallstep's badger, starts it when it is linked in.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.Cleanup(func(code int) {
			if stepCADir != "" {
				_ = os.RemoveAll(stepCADir)
			}
			os.Exit(code)
		}))
}

var anyPort = control.Listen{CA: "127.0.0.1:0", Mesh: "127.0.0.1:0", Gossip: "127.0.0.1:0"}

func newDir(t *testing.T) string {
	t.Helper()
	return initDir(t, control.Settings{TrustDomain: "example.test", Listen: anyPort})
}

func initDir(t *testing.T, s control.Settings) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mesh")
	if err := control.Init(dir, s); err != nil {
		t.Fatal(err)
	}
	return dir
}

// keepPorts has the control plane of dir take ports that nobody else is given by chance while
// it restarts: below those that systems hand out for port 0.
func keepPorts(t *testing.T, dir string) string {
	t.Helper()
	var addrs []any
	for range 3 {
		addrs = append(addrs, freeAddr(t))
	}
	run := fmt.Sprintf(`{"ca": %q, "mesh": %q, "gossip": %q}`, addrs...)
	if err := os.WriteFile(filepath.Join(dir, "run.json"), []byte(run), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A plane is a running control plane and a client of it.
type plane struct {
	*control.Server
	admin *admin.Client
	stop  func()
}

func serve(t *testing.T, dir string) *plane {
	t.Helper()
	s, err := control.New(t.Context(), control.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	c, err := s.Admin()
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{Server: s, admin: c}
	p.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := errors.Join(c.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *plane) join(t *testing.T, service, state string) *mesh.Mesh {
	t.Helper()
	b, err := p.admin.Token(t.Context(), service, 0)
	if err != nil {
		t.Fatal(err)
	}
	return join(t, b, service, state)
}

func join(t *testing.T, b *mesh.Bootstrap, service, state string) *mesh.Mesh {
	t.Helper()
	return joinWith(t, mesh.Config{Service: service, Bootstrap: b, StateDir: state})
}

func (p *plane) apply(t *testing.T, rules string) uint64 {
	t.Helper()
	docs, err := rulesfile.Parse("rules", []byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.admin.Apply(t.Context(), docs, admin.ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Version
}

const ordersMayCallPayments = `
apiVersion: mesh/v1
kind: Authorization
metadata: {name: payments-callers}
spec:
  service: payments
  action: allow
  rules: [{from: [{services: [orders]}]}]
`

// echo serves the default port of m until the test ends, at the address that it returns.
func echo(t *testing.T, m *mesh.Mesh) netip.AddrPort {
	t.Helper()
	ln, err := m.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wait := testserve.Each(ln, testserve.Echo)
	t.Cleanup(func() {
		_ = m.Close() // ends what is open
		wait()
	})
	return netip.MustParseAddrPort(ln.Addr().String())
}

// ping sends a line to payments and reads it back.
func ping(ctx context.Context, m *mesh.Mesh) error {
	c, err := m.Dial(ctx, "tcp", "payments")
	if err != nil {
		return err
	}
	return pingOn(ctx, c)
}

func pingOn(ctx context.Context, c net.Conn) error {
	defer c.Close()
	if d, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(d); err != nil {
			return err
		}
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}

// eventually tries until it works, each time after something may have changed.
func eventually(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	within(t, time.Minute, what, try)
}

func within(t *testing.T, limit time.Duration, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}
