package identity_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// fileTest is a Files source on the virtual clock, and who writes its files.
type fileTest struct {
	t   *testing.T
	ca  *testca.CA
	dir string
	j   journal
	*identity.Files
}

func withFiles(t *testing.T, f func(ft *fileTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ft := &fileTest{t: t, ca: newCA(t, "prod.example"), dir: t.TempDir()}
		ft.write(ft.issue("payments"))
		ft.start()
		f(ft)
	})
}

func (ft *fileTest) config() identity.FilesConfig {
	at := func(name string) string { return filepath.Join(ft.dir, name) }
	return identity.FilesConfig{CertFile: at("cert.pem"), KeyFile: at("key.pem"), RootsFile: at("roots.pem"), Logger: slog.New(&ft.j)}
}

func (ft *fileTest) start() {
	ft.t.Helper()
	f, err := identity.NewFiles(ft.config())
	if err != nil {
		ft.t.Fatal(err)
	}
	ft.Files = f
	ft.t.Cleanup(func() { _ = errors.Join(f.Close(), f.Close()) })
}

func (ft *fileTest) issue(service string, edit ...func(*x509.Certificate)) *x509svid.SVID {
	ft.t.Helper()
	svid, err := ft.ca.SVID(service, edit...)
	if err != nil {
		ft.t.Fatal(err)
	}
	return svid
}

func (ft *fileTest) write(svid *x509svid.SVID) {
	ft.t.Helper()
	if _, _, _, err := ft.ca.Write(ft.dir, svid); err != nil {
		ft.t.Fatal(err)
	}
}

// serves fails the test unless svid is what the source hands out one poll from now.
func (ft *fileTest) serves(svid *x509svid.SVID) {
	ft.t.Helper()
	<-time.After(5*time.Second + time.Millisecond)
	got, err := ft.GetX509SVID()
	if err != nil {
		ft.t.Fatal(err)
	}
	if !got.Certificates[0].Equal(svid.Certificates[0]) {
		ft.t.Errorf("serves certificate %x, want %x", got.Certificates[0].SerialNumber, svid.Certificates[0].SerialNumber)
	}
	if !got.PrivateKey.Public().(*ecdsa.PublicKey).Equal(got.Certificates[0].PublicKey) {
		ft.t.Error("the key is of another certificate")
	}
}

// told fails the test unless the log told of trouble n times, the last time with part.
func (ft *fileTest) told(n int, part string) {
	ft.t.Helper()
	found := ft.j.find("not everything could be taken")
	if len(found) != n {
		ft.t.Fatalf("%d reports of trouble, want %d", len(found), n)
	}
	found[n-1].Attrs(func(a slog.Attr) bool {
		if !strings.Contains(a.Value.String(), part) {
			ft.t.Errorf("report %q does not tell %q", a.Value, part)
		}
		return true
	})
}

func TestFilesReload(t *testing.T) {
	withFiles(t, func(ft *fileTest) {
		bundle, err := ft.GetX509BundleForTrustDomain(ft.ca.TrustDomain())
		if err != nil || !bundle.Equal(ft.ca.Bundle()) {
			t.Errorf("bundle %v, %v", bundle, err)
		}
		changed := ft.Changed()
		<-time.After(time.Minute)
		select {
		case <-changed:
			t.Error("nothing was written, and something changed")
		default:
		}
		next := ft.issue("payments")
		ft.write(next)
		ft.serves(next)
		<-changed
		if same, _ := ft.GetX509BundleForTrustDomain(ft.ca.TrustDomain()); same != bundle {
			t.Error("another bundle of the same roots")
		}
	})
}

// A poll falls between the writing of the certificate and of the key.
func TestFilesHalfWritten(t *testing.T) {
	withFiles(t, func(ft *fileTest) {
		old, err := ft.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		next := ft.issue("payments")
		cert, key, err := next.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		write(t, ft.config().CertFile, string(cert))
		ft.serves(old)
		ft.serves(old)
		ft.told(1, "does not match")
		write(t, ft.config().KeyFile, string(key)[:60])
		ft.serves(old)
		write(t, ft.config().KeyFile, string(key))
		ft.serves(next)

		if err := os.Remove(ft.config().CertFile); err != nil {
			t.Fatal(err)
		}
		ft.serves(next)
		ft.told(3, "no such file")
	})
}

// Kubernetes switches the symbolic link ..data to a new directory.
func TestFilesSymlinkSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ft := &fileTest{t: t, ca: newCA(t, "prod.example")}
		mount := t.TempDir()
		data := filepath.Join(mount, "..data")
		publish := func(version string, svid *x509svid.SVID) {
			ft.dir = filepath.Join(mount, version)
			tmp := data + "_tmp"
			if err := errors.Join(os.Mkdir(ft.dir, 0o755), os.Symlink(version, tmp), os.Rename(tmp, data)); err != nil {
				t.Fatal(err)
			}
			ft.write(svid)
		}
		publish("..1", ft.issue("payments"))
		for _, name := range []string{"cert.pem", "key.pem", "roots.pem"} {
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(mount, name)); err != nil {
				t.Fatal(err)
			}
		}
		ft.dir = mount
		ft.start()
		next := ft.issue("payments")
		publish("..2", next)
		ft.serves(next)
	})
}

func TestFilesNotTaken(t *testing.T) {
	withFiles(t, func(ft *fileTest) {
		old, err := ft.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		ft.write(ft.issue("orders"))
		ft.serves(old)
		ft.told(1, "for spiffe://prod.example/orders now")

		foreign, err := newCA(t, "prod.example").SVID("payments")
		if err != nil {
			t.Fatal(err)
		}
		ft.write(foreign)
		ft.serves(old)
		ft.told(2, "unknown authority")

		ft.write(ft.issue("payments", func(c *x509.Certificate) { c.NotAfter = time.Now() }))
		ft.serves(old)
		ft.told(3, "expired")

		write(t, ft.config().RootsFile, "garbage")
		ft.serves(old)
		ft.told(4, "roots.pem")
		if b, err := ft.GetX509BundleForTrustDomain(ft.ca.TrustDomain()); err != nil || b.Empty() {
			t.Errorf("the roots are lost: %v", err)
		}

		// Time mends this one: nothing has to be written again.
		early := ft.issue("payments", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
		ft.write(early)
		ft.serves(old)
		ft.told(5, "not yet valid")
		<-time.After(time.Minute)
		ft.serves(early)
	})
}

// Roots that no longer cover the certificate in use count all the same.
func TestFilesRootsAlone(t *testing.T) {
	withFiles(t, func(ft *fileTest) {
		old, err := ft.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		next := newCA(t, "prod.example")
		pem, err := next.Bundle().Marshal()
		if err != nil {
			t.Fatal(err)
		}
		changed := ft.Changed()
		write(t, ft.config().RootsFile, string(pem))
		<-changed
		ft.serves(old)
		ft.told(1, "unknown authority")
		if _, err := identity.Verify(old.Certificates, ft); err == nil {
			t.Error("the former root is still trusted")
		}
		ft.ca = next
		svid := ft.issue("payments")
		ft.write(svid)
		ft.serves(svid)
	})
}

func TestFilesExpire(t *testing.T) {
	withFiles(t, func(ft *fileTest) {
		<-time.After(testca.LeafLifetime + time.Second)
		_, err := ft.GetX509SVID()
		if _, ok := errors.AsType[*identity.ExpiredError](err); !ok {
			t.Fatalf("error %v; want *ExpiredError", err)
		}
		wantError(t, err, "spiffe://prod.example/payments", "no newer one in "+ft.config().CertFile)
	})
}

func TestFilesOpenKey(t *testing.T) {
	withFiles(t, func(ft *fileTest) {
		const warning = "not for its owner alone"
		if len(ft.j.find(warning)) != 0 {
			t.Error("a warning about a key of mode 0600")
		}
		if err := os.Chmod(ft.config().KeyFile, 0o644); err != nil {
			t.Fatal(err)
		}
		ft.start()
		if len(ft.j.find(warning)) != 1 {
			t.Error("no warning about a key of mode 0644")
		}
	})
}

// Whatever form the key has, and all in one file.
func TestFilesKeyForms(t *testing.T) {
	withFiles(t, func(ft *fileTest) {
		svid := ft.issue("payments")
		cert, pkcs8, err := svid.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalECPrivateKey(svid.PrivateKey.(*ecdsa.PrivateKey))
		if err != nil {
			t.Fatal(err)
		}
		sec1 := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
		for _, key := range [][]byte{pkcs8, sec1} {
			cfg := ft.config()
			cfg.CertFile = filepath.Join(ft.dir, "both.pem")
			cfg.KeyFile = cfg.CertFile
			write(t, cfg.CertFile, string(key)+string(cert))
			f, err := identity.NewFiles(cfg)
			if err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
	})
}

func TestFilesRefused(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(ft *fileTest)
		want  []string
	}{
		{"no certificate", func(ft *fileTest) { _ = os.Remove(ft.config().CertFile) }, []string{"cert.pem", "no such file"}},
		{"no key", func(ft *fileTest) { _ = os.Remove(ft.config().KeyFile) }, []string{"key.pem", "no such file"}},
		{"no roots", func(ft *fileTest) { _ = os.Remove(ft.config().RootsFile) }, []string{"roots.pem", "no such file"}},
		{"empty certificate", func(ft *fileTest) { write(ft.t, ft.config().CertFile, "") }, []string{"cert.pem", "PEM"}},
		{"empty roots", func(ft *fileTest) { write(ft.t, ft.config().RootsFile, "") }, []string{"roots.pem"}},
		{"roots without certificate", func(ft *fileTest) {
			key, err := os.ReadFile(ft.config().KeyFile)
			if err != nil {
				ft.t.Fatal(err)
			}
			write(ft.t, ft.config().RootsFile, string(key))
		}, []string{"roots.pem"}},
		{"enormous roots", func(ft *fileTest) { write(ft.t, ft.config().RootsFile, strings.Repeat("x", 2<<20)) }, []string{"roots.pem", "larger than"}},
		{"another key", func(ft *fileTest) {
			_, key, err := ft.issue("payments").Marshal()
			if err != nil {
				ft.t.Fatal(err)
			}
			write(ft.t, ft.config().KeyFile, string(key))
		}, []string{"cert.pem", "key.pem", "does not match"}},
		{"expired", func(ft *fileTest) {
			ft.write(ft.issue("payments", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }))
		}, []string{"cert.pem", "expired"}},
		{"no SPIFFE ID", func(ft *fileTest) {
			ft.write(ft.issue("payments", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "a"}} }))
		}, []string{"cert.pem", "not a SPIFFE ID"}},
		{"of another CA", func(ft *fileTest) {
			pem, err := newCA(ft.t, "prod.example").Bundle().Marshal()
			if err != nil {
				ft.t.Fatal(err)
			}
			write(ft.t, ft.config().RootsFile, string(pem))
		}, []string{"cert.pem", "roots.pem", "unknown authority"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ft := &fileTest{t: t, ca: newCA(t, "prod.example"), dir: t.TempDir()}
			ft.write(ft.issue("payments"))
			tt.spoil(ft)
			_, err := identity.NewFiles(ft.config())
			wantError(t, err, append(tt.want, "identity: ")...)
		})
	}
}
