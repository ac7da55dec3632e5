package admin_test

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/policy"
)

func authority(t *testing.T) *admin.Authority {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "admin")
	if err := admin.CreateAuthority(dir); err != nil {
		t.Fatal(err)
	}
	a, err := admin.LoadAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/ca.key", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.LoadAuthority(dir); err == nil {
		t.Error("a key that others may read was loaded")
	}
	return a
}

func issue(t *testing.T, a *admin.Authority, name string, role admin.Role) (file, serial string) {
	t.Helper()
	identity, serial, err := a.Issue(name, role, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "identity.pem")
	if err := os.WriteFile(file, identity, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, serial
}

// TestRemote: over TLS, by the certificate's role; who has none, one of another authority or a revoked one gets nothing.
func TestRemote(t *testing.T) {
	a := authority(t)
	revoked := map[string]bool{}
	srv := httptest.NewUnstartedServer(admin.Authenticate(admin.Handler(backend{}, slog.New(slog.DiscardHandler)), func(s string) bool { return revoked[s] }))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Listener = tls.NewListener(srv.Listener, a.ServerTLS("127.0.0.1"))
	srv.Start()
	srv.URL = strings.Replace(srv.URL, "http:", "https:", 1)
	t.Cleanup(srv.Close)
	dial := func(file string) *admin.Client {
		t.Helper()
		c, err := admin.Dial(srv.URL, file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	status := func(err error) int {
		if e, ok := errors.AsType[*admin.Error](err); ok {
			return e.Status
		}
		if _, ok := errors.AsType[*admin.UnreachableError](err); ok {
			return -1
		}
		return 0
	}
	for role := admin.Viewer; role <= admin.Admin; role++ {
		file, serial := issue(t, a, "alice", role)
		c := dial(file)
		_, read := c.Rules(t.Context())
		_, write := c.Apply(t.Context(), []policy.Document{}, admin.ApplyOptions{})
		_, tokens := c.Tokens(t.Context())
		want := [3]int{0, http.StatusForbidden, http.StatusForbidden}
		if role >= admin.Editor {
			want[1] = 0
		}
		if role >= admin.Admin {
			want[2] = 0
		}
		if got := [3]int{status(read), status(write), status(tokens)}; got != want {
			t.Errorf("%v: %v, want %v (%v, %v, %v)", role, got, want, read, write, tokens)
		}
		revoked[serial] = true
		if _, err := c.Rules(t.Context()); status(err) != http.StatusUnauthorized {
			t.Errorf("%v, revoked: %v", role, err)
		}
	}
	// Another mesh's operator neither trusts this server nor is trusted by it.
	other, _ := issue(t, authority(t), "mallory", admin.Admin)
	if _, err := dial(other).Rules(t.Context()); status(err) != -1 {
		t.Errorf("another authority: %v", err)
	}
	mallory, err := tls.LoadX509KeyPair(other, other)
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{"no certificate": nil, "another authority's": {mallory}} {
		tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if certs == nil {
				return new(tls.Certificate), nil
			}
			return &certs[0], nil
		}}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/rules", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := (&http.Client{Transport: tr}).Do(req); err == nil {
			t.Errorf("%s: %s", name, resp.Status)
			_ = resp.Body.Close()
		}
		tr.CloseIdleConnections()
	}
}

func TestIdentityIsChecked(t *testing.T) {
	a := authority(t)
	for _, c := range []struct {
		name string
		role admin.Role
		life time.Duration
	}{{"", admin.Admin, time.Hour}, {"a b", admin.Admin, time.Hour}, {"a", 0, time.Hour}, {"a", 4, time.Hour}, {"a", admin.Admin, 0}, {"a", admin.Admin, 10 * admin.MaxLifetime}} {
		if _, _, err := a.Issue(c.name, c.role, c.life); err == nil {
			t.Errorf("%+v was issued", c)
		}
	}
	file, _ := issue(t, a, "alice", admin.Viewer)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := string(whole[:strings.LastIndex(string(whole), "-----BEGIN")])
	for what, c := range map[string]struct {
		server, data string
		perm         os.FileMode
	}{
		"plain HTTP":   {"http://a:1", string(whole), 0o600},
		"a path":       {"https://a:1/v1", string(whole), 0o600},
		"open file":    {"https://a:1", string(whole), 0o644},
		"no authority": {"https://a:1", cut, 0o600},
		"not PEM":      {"https://a:1", "x", 0o600},
	} {
		f := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(f, []byte(c.data), c.perm); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.Dial(c.server, f); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	if _, err := admin.Dial("https://a:1", "/nowhere"); err == nil {
		t.Error("a missing file was accepted")
	}
}
