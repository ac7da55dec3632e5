package admin_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend answers each call with its error.
type backend struct{ err error }

func (b backend) CreateToken(context.Context, enrol.Spec) (admin.Created, error) {
	return admin.Created{Token: enrol.Token{Services: []string{"a"}}}, b.err
}
func (b backend) Tokens(context.Context) ([]enrol.Token, error) { return nil, b.err }
func (b backend) RevokeToken(context.Context, string) (enrol.Token, error) {
	return enrol.Token{Services: []string{"a"}}, b.err
}
func (b backend) Authorities(context.Context) (admin.Authorities, error) {
	return admin.Authorities{}, b.err
}
func (b backend) Rotate(context.Context, admin.Rotate) (admin.Authorities, error) {
	return admin.Authorities{}, b.err
}
func (b backend) AbortRotation(context.Context) (admin.Authorities, error) {
	return admin.Authorities{}, b.err
}
func (b backend) Revoke(context.Context, admin.Revoke) (admin.Revoked, error) {
	return admin.Revoked{}, b.err
}
func (b backend) Revocations(context.Context) ([]admin.Revocation, error) { return nil, b.err }
func (b backend) Unrevoke(context.Context, string) (admin.Revoked, error) {
	return admin.Revoked{}, b.err
}
func (b backend) Bootstrap(context.Context) (*mesh.Bootstrap, error) {
	return &mesh.Bootstrap{}, b.err
}
func (b backend) Keys(context.Context) ([]admin.Key, error)     { return nil, b.err }
func (b backend) InstallKey(context.Context) (admin.Key, error) { return admin.Key{}, b.err }
func (b backend) UseKey(context.Context, string, bool) error    { return b.err }
func (b backend) RemoveKey(context.Context, string, bool) error { return b.err }
func (b backend) Rules(context.Context) (store.Rules, error)    { return store.Rules{}, b.err }
func (b backend) Apply(context.Context, []policy.Document, admin.ApplyOptions) (store.Result, error) {
	return store.Result{}, b.err
}
func (b backend) History(context.Context, int) ([]store.Version, error) { return nil, b.err }
func (b backend) Version(context.Context, uint64) (store.Rules, error)  { return store.Rules{}, b.err }
func (b backend) RevokeIdentity(context.Context, string) (admin.Identity, error) {
	return admin.Identity{}, b.err
}
func (b backend) Snapshot(_ context.Context, w io.Writer) error {
	if b.err == nil {
		_, _ = w.Write([]byte("x"))
	}
	return b.err
}
func (b backend) Status(context.Context) (admin.Status, error) {
	return admin.Status{Replicas: []admin.Replica{}}, b.err
}
func (b backend) Audit(context.Context, int) ([]store.AuditEntry, error) { return nil, b.err }
func (b backend) Rollback(context.Context, uint64, uint64) (store.Result, error) {
	return store.Result{}, b.err
}
func (b backend) Delete(context.Context, []string, uint64) (store.Result, error) {
	return store.Result{}, b.err
}
func (b backend) Members(context.Context) ([]admin.Member, error) { return nil, b.err }
func (b backend) Explain(context.Context, admin.Question) (policy.Explanation, error) {
	return policy.Explanation{}, b.err
}

func TestErrorsArriveTyped(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{nil, 0},
		{admin.Refuse(http.StatusNotFound, errors.New("no such thing")), http.StatusNotFound},
		{errors.New("disk full"), http.StatusInternalServerError},
	} {
		dir := t.TempDir()
		ln, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, admin.SocketName))
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewUnstartedServer(admin.Handler(backend{c.err}, slog.New(slog.DiscardHandler)))
		srv.Listener = ln
		srv.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
			return admin.WithCaller(ctx, admin.Caller{Role: admin.Admin})
		}
		srv.Start()
		client, err := admin.NewClient(dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		var errs [21]error
		_, errs[0] = client.Token(ctx, "a", time.Hour)
		_, errs[1] = client.Rules(ctx)
		_, errs[2] = client.Apply(ctx, []policy.Document{}, admin.ApplyOptions{Base: 3, Replace: true})
		_, errs[3] = client.Delete(ctx, []string{"a"}, 3)
		_, errs[4] = client.Members(ctx)
		_, errs[5] = client.Explain(ctx, admin.Question{})
		_, errs[6] = client.Tokens(ctx)
		_, errs[7] = client.RevokeToken(ctx, "a/b")
		_, errs[8] = client.Bootstrap(ctx)
		_, errs[9] = client.History(ctx, 5)
		_, errs[10] = client.Version(ctx, 5)
		_, errs[11] = client.Rollback(ctx, 5, 7)
		_, errs[12] = client.Status(ctx)
		_, errs[13] = client.Audit(ctx, 5)
		_, errs[14] = client.Revoke(ctx, admin.Revoke{})
		_, errs[15] = client.Revocations(ctx)
		_, errs[16] = client.Unrevoke(ctx, "service a")
		errs[17] = client.Snapshot(ctx, io.Discard)
		_, errs[18] = client.Authorities(ctx)
		_, errs[19] = client.Rotate(ctx, admin.Rotate{})
		_, errs[20] = client.AbortRotation(ctx)
		for i, err := range errs {
			e, ok := errors.AsType[*admin.Error](err)
			if c.err == nil && err != nil || c.err != nil && (!ok || e.Status != c.status || e.Message != c.err.Error()) {
				t.Errorf("call %d: %v, want status %d", i, err, c.status)
			}
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		srv.Close()
		if err := os.RemoveAll(dir); err != nil { // else it would wait
			t.Fatal(err)
		}
		if _, err := client.Rules(ctx); err == nil {
			t.Error("an answer after the end")
		} else if _, ok := errors.AsType[*admin.UnreachableError](err); !ok {
			t.Errorf("after the end: %v", err)
		}
	}
}

// "mesh serve &" and then the next command: it waits until the control plane is there.
func TestWaitsForStart(t *testing.T) {
	dir := t.TempDir()
	client, err := admin.NewClient(dir)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		_, err := client.Rules(t.Context())
		done <- err
	}()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, admin.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(admin.Handler(backend{}, slog.New(slog.DiscardHandler)))
	srv.Listener = ln
	srv.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return admin.WithCaller(ctx, admin.Caller{Role: admin.Admin})
	}
	srv.Start()
	defer srv.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

// TestHandlerRefuses what no client of ours sends.
func TestHandlerRefuses(t *testing.T) {
	h := admin.Handler(backend{}, slog.New(slog.DiscardHandler))
	ctx := admin.WithCaller(t.Context(), admin.Caller{Role: admin.Admin})
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/tokens", `{"services": ["a"], "tll": 1}`, http.StatusBadRequest},
		{"POST", "/v1/tokens", `{`, http.StatusBadRequest},
		{"POST", "/v1/tokens", `{"services": "` + strings.Repeat("a", 1<<17) + `"}`, http.StatusBadRequest},
		{"POST", "/v1/rules", `[{"kind": "Authorization"}]`, http.StatusBadRequest},
		{"POST", "/v1/rules", `kind: Authorization`, http.StatusBadRequest},
		{"PUT", "/v1/rules", `[]`, http.StatusMethodNotAllowed},
		{"POST", "/v1/rules?base=x", `[]`, http.StatusBadRequest},
		{"POST", "/v1/rules?replace=x", `[]`, http.StatusBadRequest},
		{"GET", "/v1/history?n=-1", ``, http.StatusBadRequest},
		{"GET", "/v1/history/x", ``, http.StatusBadRequest},
		{"GET", "/v1/audit", ``, http.StatusBadRequest},
		{"GET", "/v2/rules", ``, http.StatusNotFound},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, c.method, c.path, strings.NewReader(c.body)))
		if w.Code != c.status {
			t.Errorf("%s %s %.40s: %d %s", c.method, c.path, c.body, w.Code, w.Body)
		}
	}
}

func TestSocketPath(t *testing.T) {
	if path, err := admin.SocketPath("mesh-data"); err != nil || path != "mesh-data/admin.sock" {
		t.Error(path, err)
	}
	long := filepath.Join(os.TempDir(), strings.Repeat("d", 100))
	if _, err := admin.NewClient(long); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a path of %d bytes: %v", len(long), err)
	}
}

// TestRoles: each role may do what is its own and no more, and who is not known nothing.
func TestRoles(t *testing.T) {
	h := admin.Handler(backend{}, slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		method, path, body string
		least              admin.Role
	}{
		{"GET", "/v1/rules", "", admin.Viewer},
		{"POST", "/v1/explain", "{}", admin.Viewer},
		{"POST", "/v1/rules", "[]", admin.Editor},
		{"DELETE", "/v1/rules?name=a", "", admin.Editor},
		{"POST", "/v1/history/3/rollback", "", admin.Editor},
		{"POST", "/v1/tokens", "{}", admin.Admin},
		{"GET", "/v1/audit?n=1", "", admin.Admin},
	} {
		for role := admin.Role(-1); role <= admin.Admin; role++ {
			ctx, want := t.Context(), http.StatusUnauthorized
			if role >= 0 {
				ctx = admin.WithCaller(ctx, admin.Caller{Role: role})
			}
			if role >= admin.Viewer {
				want = http.StatusForbidden
			}
			if role >= c.least {
				want = http.StatusOK
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, c.method, c.path, strings.NewReader(c.body)))
			if w.Code != want {
				t.Errorf("%s %s as %v: %d, want %d", c.method, c.path, role, w.Code, want)
			}
		}
	}
	for r := admin.Viewer; r <= admin.Admin; r++ {
		if got, err := admin.ParseRole(r.String()); err != nil || got != r {
			t.Error(got, err)
		}
	}
	if _, err := admin.ParseRole("none"); err == nil {
		t.Error("none is a role")
	}
}
