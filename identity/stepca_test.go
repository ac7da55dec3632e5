package identity_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/identity"
)

// inBubble runs a test on the virtual clock, with a CA of its own.
func inBubble(t *testing.T, f func(t *testing.T, ca *fakeCA)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newFakeCA(t)) })
}

func mustStepCA(t *testing.T, cfg identity.StepCAConfig) *identity.StepCA {
	t.Helper()
	s, err := identity.NewStepCA(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one that tells %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not tell %q", err, part)
		}
	}
}

func TestEnrol(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		var logged bytes.Buffer
		dir := filepath.Join(t.TempDir(), "identity")
		cfg := ca.config(ca.token("payments"), dir)
		cfg.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		s := mustStepCA(t, cfg)

		svid, err := s.GetX509SVID()
		if err != nil || svid.ID.String() != "spiffe://prod.example/payments" {
			t.Fatalf("GetX509SVID = %v, %v", svid, err)
		}
		bundle, err := s.GetX509BundleForTrustDomain(ca.TrustDomain())
		if err != nil || !bundle.Equal(ca.Bundle()) {
			t.Fatalf("bundle %v, %v", bundle, err)
		}
		if id, err := identity.Verify(svid.Certificates, s); err != nil || id != svid.ID {
			t.Errorf("Verify = %v, %v", id, err)
		}
		if _, err := s.GetX509BundleForTrustDomain(newCA(t, "other.example").TrustDomain()); err == nil {
			t.Error("a bundle for a foreign trust domain")
		}
		for name, perm := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "identity.pem"): 0o600, filepath.Join(dir, "roots.pem"): 0o600} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != perm {
				t.Errorf("%s: %v, %v; want %v", name, info, err, perm)
			}
		}
		if strings.Contains(logged.String(), cfg.Token) {
			t.Error("the token was logged")
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}

		// The same again: the token is spent, and the CA is gone, and neither matters.
		ca.down.Store(true)
		again, err := mustStepCA(t, cfg).GetX509SVID()
		if err != nil || !again.Certificates[0].Equal(svid.Certificates[0]) {
			t.Errorf("after a restart: %v, %v", again, err)
		}
		cfg.Token = ""
		mustStepCA(t, cfg)
	})
}

func TestConfigRefused(t *testing.T) {
	ca := newFakeCA(t)
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	sans := func(sans ...string) string { return unsigned(map[string]any{"sans": sans}) }
	tests := []struct {
		name string
		edit func(*identity.StepCAConfig)
		want string
	}{
		{"plain HTTP", func(c *identity.StepCAConfig) { c.URL = "http://10.0.0.1" }, "not of the form https://"},
		{"no host", func(c *identity.StepCAConfig) { c.URL = "https:///" }, "not of the form https://"},
		{"no URL", func(c *identity.StepCAConfig) { c.URL = "" }, "not of the form https://"},
		{"short fingerprint", func(c *identity.StepCAConfig) { c.RootFingerprint = "abcd" }, "not a SHA-256"},
		{"no token and no state", func(c *identity.StepCAConfig) { c.Token = "" }, "no token to get one"},
		{"token cut off", func(c *identity.StepCAConfig) { c.Token = c.Token[:20] }, "three parts"},
		{"token damaged", func(c *identity.StepCAConfig) { c.Token = "e30.!!!.x" }, "not base64url"},
		{"token without JSON", func(c *identity.StepCAConfig) { c.Token = "e30.e30x.x" }, "not the expected JSON"},
		{"token of a megabyte", func(c *identity.StepCAConfig) { c.Token = strings.Repeat("x", 1<<20) }, "longer than"},
		{"token for nobody", func(c *identity.StepCAConfig) { c.Token = sans() }, "not a SPIFFE ID"},
		{"token for a host", func(c *identity.StepCAConfig) { c.Token = sans("payments.example") }, "not a SPIFFE ID"},
		{"token for two", func(c *identity.StepCAConfig) { c.Token = sans("spiffe://a/b", "spiffe://a/c") }, "2 names"},
		{"token for a trust domain", func(c *identity.StepCAConfig) { c.Token = sans("spiffe://prod.example") }, "names no service"},
		{"token for another CA", func(c *identity.StepCAConfig) { c.RootFingerprint = strings.Repeat("ab", 32) }, "the token is for a CA with root"},
		{"directory of others", func(c *identity.StepCAConfig) { c.Dir = open }, "written by others"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := ca.config(ca.token("payments"), "")
			tt.edit(&cfg)
			_, err := identity.NewStepCA(t.Context(), cfg)
			wantError(t, err, "identity: ", tt.want)
			if calls := ca.seen("/sign"); len(calls) != 0 {
				t.Error("the token was sent")
			}
		})
	}
}

func TestUsedToken(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		token := ca.token("payments")
		mustStepCA(t, ca.config(token, ""))
		_, err := identity.NewStepCA(t.Context(), ca.config(token, ""))
		wantError(t, err, "used before, or has expired", "get a new one", "state directory", "401")
		var refused *identity.CAError
		if !errors.As(err, &refused) || refused.Op != "sign" || refused.Status != http.StatusUnauthorized {
			t.Errorf("error %#v is no *CAError of sign", err)
		}
		<-time.After(time.Hour)
		_, err = identity.NewStepCA(t.Context(), ca.config(token, ""))
		wantError(t, err, "likely because it expired at")
	})
}

// Whoever sits between may show the true root, which is public. It gets no token.
func TestImpostor(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		impostor := newFakeCA(t)
		cfg := ca.config(ca.token("payments"), "")
		cfg.DialContext = impostor.dial

		impostor.set(func() {
			impostor.answer["/root/"+ca.fingerprint()] = func(w http.ResponseWriter, _ *http.Request) {
				respond(w, http.StatusOK, map[string]string{"ca": certPEM(impostor.Root)})
			}
		})
		_, err := identity.NewStepCA(t.Context(), cfg)
		wantError(t, err, "something else may be answering", impostor.fingerprint())

		impostor.set(func() {
			impostor.answer["/root/"+ca.fingerprint()] = func(w http.ResponseWriter, _ *http.Request) {
				respond(w, http.StatusOK, map[string]string{"ca": certPEM(ca.Root)})
			}
		})
		_, err = identity.NewStepCA(t.Context(), cfg)
		if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
			t.Errorf("error %v; want x509.UnknownAuthorityError", err)
		}
		if len(impostor.seen("/sign")) != 0 {
			t.Error("the impostor got the token")
		}
	})
}

func TestBadAnswers(t *testing.T) {
	tests := []struct {
		name, path string
		answer     http.HandlerFunc
		edit       func(*x509.Certificate)
		want       string
	}{
		{name: "another ID", edit: func(c *x509.Certificate) {
			c.URIs[0] = &url.URL{Scheme: "spiffe", Host: "prod.example", Path: "/admin"}
		}, want: "not spiffe://prod.example/payments"},
		{name: "no ID", edit: func(c *x509.Certificate) { c.URIs = nil }, want: "0 URI SANs"},
		{name: "expired", edit: func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}, want: "expired"},
		{name: "no certificate", path: "/sign", answer: status(http.StatusCreated, `{}`), want: "no certificate"},
		{name: "a certificate that isn't", path: "/sign", answer: status(http.StatusCreated, `{"certChain":["x"]}`), want: "not a PEM certificate"},
		{name: "not JSON", path: "/sign", answer: status(http.StatusOK, `<html>`), want: "not what step-ca sends"},
		{name: "endless", path: "/sign", answer: status(http.StatusOK, strings.Repeat(" ", 1<<20)), want: "larger than"},
		{name: "redirect", path: "/sign", answer: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://10.0.0.1:9000/elsewhere", http.StatusTemporaryRedirect)
		}, want: "307"},
		{name: "refusal in words", path: "/sign", answer: status(http.StatusForbidden, `{"status":403,"message":"not allowed: payments"}`), want: "403): not allowed: payments"},
		{name: "refusal without words", path: "/sign", answer: status(http.StatusBadGateway, `oops`), want: "502): no reason given"},
		{name: "refusal with escapes", path: "/sign", answer: status(http.StatusForbidden, `{"message":"a\u001b[2Jb\nc\u202ed"}`), want: "403): a [2Jb c d"},
		{name: "no roots", path: "/roots", answer: status(http.StatusCreated, `{"crts":[]}`), want: "0 roots"},
		{name: "empty root", path: "/roots", answer: status(http.StatusCreated, `{"crts":[""]}`), want: "not a CA certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, ca *fakeCA) {
				ca.set(func() { ca.answer[tt.path], ca.edit = tt.answer, tt.edit })
				dir := t.TempDir()
				_, err := identity.NewStepCA(t.Context(), ca.config(ca.token("payments"), dir))
				wantError(t, err, tt.want)
				if _, err := os.Stat(filepath.Join(dir, "identity.pem")); err == nil {
					t.Error("it was stored")
				}
				if len(ca.seen("/elsewhere")) != 0 {
					t.Error("the redirect was followed")
				}
			})
		})
	}
	t.Run("another key", func(t *testing.T) {
		inBubble(t, func(t *testing.T, ca *fakeCA) {
			other, err := ca.SVID("payments")
			if err != nil {
				t.Fatal(err)
			}
			ca.set(func() {
				ca.answer["/sign"] = func(w http.ResponseWriter, _ *http.Request) {
					respond(w, http.StatusCreated, map[string]string{"crt": certPEM(other.Certificates[0]), "ca": certPEM(other.Certificates[1])})
				}
			})
			_, err = identity.NewStepCA(t.Context(), ca.config(ca.token("payments"), ""))
			wantError(t, err, "for another key")
		})
	})
}

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body)) // the client may have had enough
	}
}

// Everything starts at once, the CA last.
func TestWaitsForCA(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		ca.down.Store(true)
		time.AfterFunc(10*time.Second, func() { ca.down.Store(false) })
		start := time.Now()
		mustStepCA(t, ca.config(ca.token("payments"), ""))
		if d := time.Since(start); d < 10*time.Second || d > 13*time.Second {
			t.Errorf("enrolled after %v, the CA was there after 10 s", d)
		}

		ca.down.Store(true)
		start = time.Now()
		_, err := identity.NewStepCA(t.Context(), ca.config(ca.token("orders"), ""))
		wantError(t, err, "connection refused", fakeURL)
		if d := time.Since(start); d < 30*time.Second || d > 35*time.Second {
			t.Errorf("gave up after %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = identity.NewStepCA(ctx, ca.config(ca.token("orders"), ""))
		wantError(t, err, "connection refused")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v is not the context's", err)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("e30.e30.x")
	f.Add(unsigned(map[string]any{"sans": []string{"spiffe://prod.example/payments"}, "exp": 1e300}))
	f.Add(unsigned(map[string]any{"sub": "spiffe://prod.example/payments", "exp": -1, "sha": "x"}))
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	f.Fuzz(func(t *testing.T, token string) {
		_, err := identity.NewStepCA(ctx, identity.StepCAConfig{URL: fakeURL, RootFingerprint: strings.Repeat("ab", 32), Token: token})
		if err == nil {
			t.Fatal("enrolled without a CA")
		}
		if len(token) > 40 && strings.Contains(err.Error(), token) {
			t.Errorf("error %q holds the token", err)
		}
	})
}
