package admin_test

import (
	"context"
	"errors"
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
	return admin.Created{}, b.err
}
func (b backend) Tokens(context.Context) ([]enrol.Token, error) { return nil, b.err }
func (b backend) RevokeToken(context.Context, string) (enrol.Token, error) {
	return enrol.Token{}, b.err
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
func (b backend) Rules(context.Context) (store.Rules, error) { return store.Rules{}, b.err }
func (b backend) Apply(context.Context, []policy.Document) (store.Result, error) {
	return store.Result{}, b.err
}
func (b backend) Delete(context.Context, []string) (store.Result, error) {
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
		srv.Start()
		client, err := admin.NewClient(dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		var errs [12]error
		_, errs[0] = client.Token(ctx, "a", time.Hour)
		_, errs[1] = client.Rules(ctx)
		_, errs[2] = client.Apply(ctx, []policy.Document{})
		_, errs[3] = client.Delete(ctx, []string{"a"})
		_, errs[4] = client.Members(ctx)
		_, errs[5] = client.Explain(ctx, admin.Question{})
		_, errs[6] = client.Tokens(ctx)
		_, errs[7] = client.RevokeToken(ctx, "a/b")
		_, errs[8] = client.Bootstrap(ctx)
		_, errs[9] = client.Revoke(ctx, admin.Revoke{})
		_, errs[10] = client.Revocations(ctx)
		_, errs[11] = client.Unrevoke(ctx, "service a")
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
		if _, err := client.Rules(ctx); err == nil {
			t.Error("an answer after the end")
		} else if _, ok := errors.AsType[*admin.UnreachableError](err); !ok {
			t.Errorf("after the end: %v", err)
		}
	}
}

// TestHandlerRefuses what no client of ours sends.
func TestHandlerRefuses(t *testing.T) {
	h := admin.Handler(backend{}, slog.New(slog.DiscardHandler))
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
		{"GET", "/v2/rules", ``, http.StatusNotFound},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), c.method, c.path, strings.NewReader(c.body)))
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
