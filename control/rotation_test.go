package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/identity"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// traffic calls payments over and over, until stop; it returns how often, and the first errors.
func traffic(t *testing.T, m *mesh.Mesh) (stop func() (int64, []error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	client := m.HTTPClient()
	client.Timeout = 10 * time.Second
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := call(ctx, client)
				n.Add(1)
				if err != nil && ctx.Err() == nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	return sync.OnceValues(func() (int64, []error) {
		cancel()
		wg.Wait()
		return n.Load(), errs
	})
}

func call(ctx context.Context, c *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://payments/", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != "paid") {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

// pay serves payments over HTTP.
func pay(t *testing.T, m *mesh.Mesh) {
	t.Helper()
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "paid") }))
	ln, err := m.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) }) // until Close
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
}

// TestRotate replaces the root under traffic. The control plane is restarted in each phase, a member that is not there for
// all of it comes back after, and what names the old root still lets in.
func TestRotate(t *testing.T) {
	t.Parallel()
	dir := keepPorts(t, initDir(t, control.Settings{TrustDomain: "example.test", Listen: anyPort, CertificateLifetime: 2 * time.Minute}))
	p := serve(t, dir)
	p.apply(t, ordersMayCallPayments)
	state := t.TempDir()
	payments := p.join(t, "payments", filepath.Join(state, "payments"))
	pay(t, payments)
	orders := p.join(t, "orders", "")
	old, err := p.admin.Token(t.Context(), "orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	away := p.join(t, "orders", filepath.Join(state, "away"))
	if err := away.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a first call", func(ctx context.Context) error { return call(ctx, orders.HTTPClient()) })
	held, err := orders.Dial(t.Context(), "tcp", "payments")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	stop := traffic(t, orders)
	before, err := p.admin.Authorities(t.Context())
	if err != nil || len(before.Trusted) != 1 || before.Rotation != nil {
		t.Fatalf("%+v, %v", before, err)
	}
	grace := 2 * time.Second
	began, err := p.admin.Rotate(t.Context(), admin.Rotate{Grace: &grace})
	if err != nil || began.Rotation == nil || began.Rotation.Phase != admin.PhaseAdding || len(began.Trusted) != 2 || !began.Trusted[0].Active {
		t.Fatalf("%+v, %v", began, err)
	}
	if _, err := p.admin.Rotate(t.Context(), admin.Rotate{}); err == nil {
		t.Error("two rotations at once")
	}
	p.stop()
	p = serve(t, dir)
	phase := func(done func(admin.Authorities) bool) {
		within(t, 40*time.Second, "the rotation goes on", func(ctx context.Context) error {
			s, err := p.admin.Authorities(ctx)
			if err == nil && !done(s) {
				err = fmt.Errorf("%+v", s.Rotation)
			}
			return err
		})
	}
	phase(func(s admin.Authorities) bool { return s.Rotation != nil && s.Rotation.Phase == admin.PhaseIssuing })
	if _, err := p.admin.AbortRotation(t.Context()); err == nil {
		t.Error("given up after certificates were issued")
	}
	p.stop()
	p = serve(t, dir)
	during := p.join(t, "orders", "")
	phase(func(s admin.Authorities) bool { return s.Rotation == nil && len(s.Trusted) == 1 })
	after, err := p.admin.Authorities(t.Context())
	if err != nil || after.Trusted[0].Root == before.Trusted[0].Root || !after.Trusted[0].Active {
		t.Errorf("%+v, %v", after, err)
	}
	n, errs := stop()
	if len(errs) > 0 || n < 100 {
		t.Errorf("%d calls, %d failed: %v", n, len(errs), errs[:min(3, len(errs))])
	}
	t.Logf("%d calls, %d failed", n, len(errs))

	// Whoever was away, or has only heard of the old root, gets in.
	late, err := mesh.Join(t.Context(), mesh.Config{Bootstrap: old})
	if err != nil {
		t.Fatalf("with a bootstrap that names the old root: %v", err)
	}
	defer late.Close()
	for name, m := range map[string]*mesh.Mesh{"throughout": orders, "joined during": during, "joined after": late, "joins after": p.join(t, "orders", "")} {
		eventually(t, "calls by who was there "+name, func(ctx context.Context) error { return call(ctx, m.HTTPClient()) })
	}
	p.stop()
	p = serve(t, dir)
	eventually(t, "after one more restart", func(ctx context.Context) error { return call(ctx, p.join(t, "orders", "").HTTPClient()) })
}

// TestRotateWaits: as long as a live member does not trust the new root, nothing is issued by it; it is named.
func TestRotateWaits(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	id, b := p.bootstrap(t, "orders") // an identity that does not follow: it is not the mesh's own
	svid, err := id.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	m := joinWith(t, mesh.Config{Identity: fixed{id, svid}, Bootstrap: b})
	ids := func(s admin.Authorities) (all []string) {
		for _, a := range s.Trusted {
			all = append(all, a.Root)
		}
		return all
	}
	s, err := p.admin.Rotate(t.Context(), admin.Rotate{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is named", func(ctx context.Context) error {
		s, err = p.admin.Authorities(ctx)
		if err == nil && (s.Rotation == nil || !slices.ContainsFunc(s.Rotation.Waiting, func(w string) bool { return strings.HasPrefix(w, "orders ") })) {
			err = fmt.Errorf("%+v", s.Rotation)
		}
		return err
	})
	if s.Rotation.Phase != admin.PhaseAdding || len(ids(s)) != 2 {
		t.Errorf("%+v", s)
	}
	aborted, err := p.admin.AbortRotation(t.Context())
	if err != nil || aborted.Rotation != nil || len(aborted.Trusted) != 1 || aborted.Trusted[0].Root != s.Trusted[0].Root {
		t.Errorf("%+v, %v", aborted, err)
	}
	if files, err := filepath.Glob(filepath.Join(t.TempDir(), "root-*.key")); err != nil || len(files) > 0 {
		t.Error(files, err)
	}
	// Without it, nothing is waited for.
	if _, err := p.admin.Rotate(t.Context(), admin.Rotate{Grace: new(time.Duration)}); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is done", func(ctx context.Context) error {
		s, err := p.admin.Authorities(ctx)
		if err == nil && s.Rotation != nil {
			err = errors.New(strings.Join(s.Rotation.Waiting, ", "))
		}
		return err
	})
}

// fixed is an identity that never changes.
type fixed struct {
	identity.Source
	svid *x509svid.SVID
}

func (f fixed) GetX509SVID() (*x509svid.SVID, error) { return f.svid, nil }
