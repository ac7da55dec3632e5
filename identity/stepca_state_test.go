package identity_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/identity"
)

func TestState(t *testing.T) {
	tests := []struct {
		name    string
		service string // of the new token, "" for none
		before  func(t *testing.T, ca *fakeCA, dir string, cfg *identity.StepCAConfig)
		want    string // error; "" means that it starts
		signs   int
	}{
		{"of another service", "orders", nil, "holds the certificate of spiffe://prod.example/payments, but the token is for spiffe://prod.example/orders", 0},
		{"expired, no token", "", expire, "expired at", 0},
		{"expired, token", "payments", expire, "", 1},
		{"of another CA, no token", "", anotherCA, "is of a CA with root", 0},
		{"of another CA, token", "payments", anotherCA, "", 1},
		{"damaged", "payments", func(t *testing.T, _ *fakeCA, dir string, _ *identity.StepCAConfig) {
			write(t, filepath.Join(dir, "identity.pem"), "garbage")
		}, "damaged, remove it", 0},
		{"roots lost", "payments", func(t *testing.T, _ *fakeCA, dir string, _ *identity.StepCAConfig) {
			write(t, filepath.Join(dir, "roots.pem"), "# trusted by the fingerprint x\n")
		}, "damaged, remove it", 0},
		{"enormous", "payments", func(t *testing.T, _ *fakeCA, dir string, _ *identity.StepCAConfig) {
			write(t, filepath.Join(dir, "identity.pem"), strings.Repeat("x", 1<<20))
		}, "larger than", 0},
		{"key of another certificate", "payments", func(t *testing.T, ca *fakeCA, dir string, _ *identity.StepCAConfig) {
			a, err1 := ca.SVID("payments")
			b, err2 := ca.SVID("payments")
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			cert, _, err1 := a.Marshal()
			_, key, err2 := b.Marshal()
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "identity.pem"), string(key)+string(cert))
		}, "is not that of the private key", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, ca *fakeCA) {
				dir := t.TempDir()
				first := mustStepCA(t, ca.config(ca.token("payments"), dir))
				_ = first.Close()
				ca.seen("")
				cfg := ca.config("", dir)
				if tt.before != nil {
					tt.before(t, ca, dir, &cfg)
				}
				if tt.service != "" {
					cfg.Token = ca.token(tt.service)
				}
				s, err := identity.NewStepCA(t.Context(), cfg)
				if tt.want != "" {
					wantError(t, err, tt.want)
				} else {
					if err != nil {
						t.Fatal(err)
					}
					defer s.Close()
					if svid, err := s.GetX509SVID(); err != nil || svid.ID.Path() != "/payments" {
						t.Errorf("GetX509SVID = %v, %v", svid, err)
					}
				}
				if n := len(ca.seen("/sign")); n != tt.signs {
					t.Errorf("%d calls of sign, want %d", n, tt.signs)
				}
			})
		})
	}
}

func expire(_ *testing.T, ca *fakeCA, _ string, _ *identity.StepCAConfig) {
	<-time.After(ca.life + time.Second)
}

func anotherCA(t *testing.T, ca *fakeCA, dir string, _ *identity.StepCAConfig) {
	t.Helper()
	other := newFakeCA(t)
	former := t.TempDir()
	s := mustStepCA(t, other.config(other.token("payments"), former))
	_ = s.Close()
	for _, name := range []string{"identity.pem", "roots.pem"} {
		data, err := os.ReadFile(filepath.Join(former, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), string(data))
	}
}

func write(t *testing.T, name, data string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), []byte("# trusted by the fingerprint abab\n"))
	f.Fuzz(func(t *testing.T, id, roots []byte) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "identity.pem"), string(id))
		write(t, filepath.Join(dir, "roots.pem"), string(roots))
		_, err := identity.NewStepCA(t.Context(), identity.StepCAConfig{URL: fakeURL, RootFingerprint: strings.Repeat("ab", 32), Dir: dir})
		if err == nil {
			t.Error("made-up state was taken")
		}
	})
}
