package identity_test

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh/identity"
)

// journal keeps what was logged, with the virtual time.
type journal struct {
	mu      sync.Mutex
	records []slog.Record
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.records = append(j.records, r)
	return nil
}

// find returns the records that tell text, oldest first.
func (j *journal) find(text string) []slog.Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []slog.Record
	for _, r := range j.records {
		if strings.Contains(r.Message, text) {
			found = append(found, r)
		}
	}
	return found
}

func leafOf(t *testing.T, s *identity.StepCA) *x509.Certificate {
	t.Helper()
	svid, err := s.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	return svid.Certificates[0]
}

func TestRenewal(t *testing.T) {
	for _, life := range []time.Duration{5 * time.Minute, time.Hour, 24 * time.Hour} {
		t.Run(life.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, ca *fakeCA) {
				ca.set(func() { ca.life = life })
				dir := t.TempDir()
				s := mustStepCA(t, ca.config(ca.token("payments"), dir))
				keys := map[string]bool{}
				for range 10 {
					ca.seen("")
					before := leafOf(t, s)
					changed := s.Changed()
					for leafOf(t, s).Equal(before) {
						<-changed
						changed = s.Changed()
					}
					at := float64(time.Since(before.NotBefore)) / float64(life)
					if at < 2.0/3-0.051 || at > 2.0/3+0.051+1.0/300 { // a second of grace for the shortest
						t.Errorf("renewed at %.3f of its life", at)
					}
					rekeys := ca.seen("/rekey")
					if len(rekeys) != 1 || keys[rekeys[0].key] {
						t.Errorf("%d calls of rekey, or an old key", len(rekeys))
					}
					keys[rekeys[0].key] = true
				}
				_ = s.Close()
				ca.down.Store(true)
				if again := mustStepCA(t, ca.config("", dir)); !leafOf(t, again).Equal(leafOf(t, s)) {
					t.Error("the newest certificate is not the stored one")
				}
			})
		})
	}
}

// The CA is gone for some hours of a certificate's last third.
func TestRenewalRetries(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		var j journal
		cfg := ca.config(ca.token("payments"), "")
		cfg.Logger = slog.New(&j)
		s := mustStepCA(t, cfg)
		first := leafOf(t, s)
		ca.down.Store(true)
		<-time.After(20 * time.Hour)
		misses := j.find("not renewed")
		if len(misses) < 20 {
			t.Fatalf("only %d attempts were logged in three hours", len(misses))
		}
		for i, r := range misses[1:] {
			if d := r.Time.Sub(misses[i].Time); d < 500*time.Millisecond || d > 5*time.Minute+time.Second {
				t.Errorf("attempt %d came %v after the one before", i+1, d)
			}
			if left := first.NotAfter.Sub(r.Time); (r.Level == slog.LevelError) != (left < 4*time.Hour) {
				t.Errorf("level %v with %v left", r.Level, left)
			}
		}
		ca.down.Store(false)
		changed := s.Changed()
		start := time.Now()
		<-changed
		if d := time.Since(start); d > 5*time.Minute+time.Second {
			t.Errorf("renewed %v after the CA was back", d)
		}
		if leafOf(t, s).Equal(first) {
			t.Error("the certificate is the old one")
		}
	})
}

func TestExpiry(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		var j journal
		cfg := ca.config(ca.token("payments"), "")
		cfg.Logger = slog.New(&j)
		s := mustStepCA(t, cfg)
		first := leafOf(t, s)
		ca.down.Store(true)
		<-time.After(time.Until(first.NotAfter))
		leafOf(t, s) // to the last second
		<-time.After(time.Second)
		_, err := s.GetX509SVID()
		var expired *identity.ExpiredError
		if !errors.As(err, &expired) || expired.ID.Path() != "/payments" || !expired.NotAfter.Equal(first.NotAfter) {
			t.Fatalf("error %#v; want *ExpiredError", err)
		}
		wantError(t, err, "spiffe://prod.example/payments", "get a new token and restart")

		// The CA is back, but a certificate that has expired is not renewed: the log says so.
		ca.down.Store(false)
		<-time.After(time.Hour)
		last := j.find("has expired and was not renewed")
		if len(last) < 10 || last[len(last)-1].Level != slog.LevelError {
			t.Fatalf("%d records of it", len(last))
		}
		if len(ca.seen("/rekey")) != 0 {
			t.Fatal("the fake is too lenient for this test")
		}
		// A CA that renews after expiry is taken at its word.
		ca.lenient.Store(true)
		<-s.Changed()
		if leaf := leafOf(t, s); leaf.Equal(first) {
			t.Error("still the expired certificate")
		}
	})
}

func TestRootsRotate(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		dir := t.TempDir()
		s := mustStepCA(t, ca.config(ca.token("payments"), dir))
		bundle, err := s.GetX509BundleForTrustDomain(ca.TrustDomain())
		if err != nil {
			t.Fatal(err)
		}
		next := newCA(t, "prod.example")
		<-time.After(3 * time.Hour)
		if same, _ := s.GetX509BundleForTrustDomain(ca.TrustDomain()); same != bundle {
			t.Error("a refresh without change made another bundle")
		}
		changed := s.Changed()
		start := time.Now()
		ca.set(func() { ca.roots = append(ca.roots, next.Root) })
		<-changed
		if d := time.Since(start); d > time.Hour {
			t.Errorf("the new root came after %v", d)
		}
		svid, err := next.SVID("orders")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := identity.Verify(svid.Certificates, s); err != nil {
			t.Errorf("a certificate below the new root: %v", err)
		}

		// A restart knows both, though the configured fingerprint is the first one's.
		_ = s.Close()
		ca.down.Store(true)
		if _, err := identity.Verify(svid.Certificates, mustStepCA(t, ca.config("", dir))); err != nil {
			t.Errorf("after a restart: %v", err)
		}
	})
}

// The root of the certificate in use is withdrawn: it is replaced then, not hours later.
func TestRootWithdrawn(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		s := mustStepCA(t, ca.config(ca.token("payments"), ""))
		ca.seen("")
		ca.set(func() { ca.roots = []*x509.Certificate{newCA(t, "prod.example").Root} })
		var j journal
		_ = s.Close()
		dir := t.TempDir()
		cfg := ca.config(ca.token("orders"), dir)
		cfg.Logger = slog.New(&j)
		// Roots that don't verify the CA that hands them out end an enrolment before the token is spent.
		_, err := identity.NewStepCA(t.Context(), cfg)
		wantError(t, err, "unknown authority")
		if len(ca.seen("/sign")) != 0 {
			t.Error("the token was spent")
		}

		ca.set(func() { ca.roots = []*x509.Certificate{ca.Root} })
		s = mustStepCA(t, cfg)
		ca.set(func() { ca.roots = []*x509.Certificate{newCA(t, "prod.example").Root} })
		<-s.Changed()
		<-time.After(time.Minute)
		if len(j.find("not renewed")) == 0 {
			t.Error("no renewal was tried")
		}
	})
}

// A server of another CA can't replace the roots.
func TestRootsFromImpostor(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		impostor := newFakeCA(t)
		dial := ca.dial
		var mu sync.Mutex
		var j journal
		cfg := ca.config(ca.token("payments"), "")
		cfg.Logger = slog.New(&j)
		cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			mu.Lock()
			d := dial
			mu.Unlock()
			return d(ctx, network, address)
		}
		s := mustStepCA(t, cfg)
		mu.Lock()
		dial = impostor.dial
		mu.Unlock()
		<-time.After(2 * time.Hour)
		if bundle, err := s.GetX509BundleForTrustDomain(ca.TrustDomain()); err != nil || !bundle.Equal(ca.Bundle()) {
			t.Errorf("bundle %v, %v", bundle, err)
		}
		if len(j.find("roots were not refreshed")) == 0 || len(impostor.seen("/roots")) != 0 {
			t.Error("the impostor was asked, or nobody was")
		}
	})
}

func TestRestartRefreshesRoots(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		dir := t.TempDir()
		_ = mustStepCA(t, ca.config(ca.token("payments"), dir)).Close()
		next := newCA(t, "prod.example")
		ca.set(func() { ca.roots = append(ca.roots, next.Root) })
		s := mustStepCA(t, ca.config("", dir))
		changed := s.Changed()
		start := time.Now()
		<-changed
		if d := time.Since(start); d > time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// A full disk does not stop a renewal, and what could not be stored is stored later.
func TestUnstoredRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		var j journal
		dir := filepath.Join(t.TempDir(), "identity")
		cfg := ca.config(ca.token("payments"), dir)
		cfg.Logger = slog.New(&j)
		s := mustStepCA(t, cfg)
		first := leafOf(t, s)
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
		<-s.Changed()
		<-time.After(time.Second)
		if leafOf(t, s).Equal(first) || len(j.find("could not be stored")) != 1 {
			t.Error("not renewed, or not told that it isn't stored")
		}
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		_ = s.Close()
		ca.down.Store(true)
		if again := mustStepCA(t, ca.config("", dir)); !leafOf(t, again).Equal(leafOf(t, s)) {
			t.Error("the certificate in use was not stored when it could be")
		}
	})
}

func TestCloseAbortsRequest(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		dir := t.TempDir()
		_ = mustStepCA(t, ca.config(ca.token("payments"), dir)).Close()
		asked := make(chan struct{})
		ca.set(func() {
			ca.answer["/roots"] = func(_ http.ResponseWriter, r *http.Request) {
				close(asked)
				<-r.Context().Done()
			}
		})
		s := mustStepCA(t, ca.config("", dir))
		<-asked
		start := time.Now()
		_ = s.Close()
		if d := time.Since(start); d > 0 {
			t.Errorf("Close took %v", d)
		}
	})
}

func TestSilentCA(t *testing.T) {
	inBubble(t, func(t *testing.T, ca *fakeCA) {
		ca.set(func() {
			ca.answer["/roots"] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		})
		cfg := ca.config(ca.token("payments"), "")
		cfg.Timeout = 3 * time.Second
		start := time.Now()
		_, err := identity.NewStepCA(t.Context(), cfg)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != cfg.Timeout {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}
