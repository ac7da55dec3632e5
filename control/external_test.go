package control_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestExternalCA: a real step-ca signs; enrolling, calls under rules, renewal, revocation and restarts are as with the
// embedded one, and what that alone can do says so.
func TestExternalCA(t *testing.T) {
	t.Parallel()
	step := newStepCA(t, shortClaims)
	dir := keepPorts(t, initDir(t, control.Settings{TrustDomain: "example.test", Listen: anyPort, CertificateLifetime: time.Minute, CA: step.external}))
	p := serve(t, dir)
	p.apply(t, ordersMayCallPayments)
	payments := p.join(t, "payments", "")
	echo(t, payments)
	orders := p.join(t, "orders", "")
	strangers := p.join(t, "strangers", "")
	eventually(t, "a ping", func(ctx context.Context) error { return ping(ctx, orders) })
	if err := ping(t.Context(), strangers); err == nil {
		t.Error("the rules do not count")
	}

	// Who signed, who renews.
	src := enrolled(t, p, "invoices")
	first, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(step.root)
	between := x509.NewCertPool()
	between.AddCert(first.Certificates[1])
	if _, err := first.Certificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between}); err != nil {
		t.Errorf("not signed by step-ca: %v", err)
	}
	if status, body := step.call(t, http.MethodPost, "/renew", first); status != http.StatusUnauthorized {
		t.Errorf("past the control plane step-ca renews: %d %s", status, body)
	}
	select {
	case <-src.Changed():
	case <-time.After(50 * time.Second):
		t.Fatal("not renewed")
	}
	renewed, err := src.GetX509SVID()
	if err != nil || renewed.Certificates[0].SerialNumber.Cmp(first.Certificates[0].SerialNumber) == 0 {
		t.Errorf("renewed: %v", err)
	}
	eventually(t, "a ping with renewed certificates", func(ctx context.Context) error { return ping(ctx, orders) })

	// What was revoked is refused by members, by the control plane and on step-ca's list; what it was renewed into as well.
	if _, err := p.admin.Revoke(t.Context(), admin.Revoke{Serial: first.Certificates[0].SerialNumber.Text(16)}); err != nil {
		t.Fatal(err)
	}
	_, list := step.call(t, http.MethodGet, "/1.0/crl", nil)
	crl, err := x509.ParseRevocationList(list)
	if err != nil || !lists(crl, first.Certificates[0]) || !lists(crl, renewed.Certificates[0]) {
		t.Errorf("step-ca's list: %v, %v", crl, err)
	}
	if _, err := p.admin.Revoke(t.Context(), admin.Revoke{Service: "orders", Block: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "orders is out", func(ctx context.Context) error {
		if ping(ctx, orders) == nil {
			return errors.New("it is not")
		}
		return nil
	})
	if _, err := p.admin.Revoke(t.Context(), admin.Revoke{Service: "orders", Block: true}); err != nil {
		t.Errorf("again: %v", err)
	}
	b, err := p.admin.Token(t.Context(), "orders", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := enrol(t.Context(), b, "orders", nil); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a blocked service enrols: %v", err)
	}

	// The root is step-ca's.
	a, err := p.admin.Authorities(t.Context())
	if err != nil || len(a.Trusted) != 1 || a.Trusted[0].Root != ca.Fingerprint(step.root) || !a.Trusted[0].Active {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := p.admin.Rotate(t.Context(), admin.Rotate{}); err == nil || !strings.Contains(err.Error(), "external CA's") {
		t.Errorf("rotate: %v", err)
	}

	// Without step-ca the control plane starts, and says why nobody gets in; with it all is well again.
	p.stop()
	step.stop()
	p = serve(t, dir)
	if b, err = p.admin.Token(t.Context(), "reports", 0); err != nil {
		t.Fatal(err)
	}
	warnings := make(heard, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := enrol(t.Context(), b, "reports", slog.New(slog.NewTextHandler(warnings, nil))); err != nil {
			t.Errorf("enrolling while step-ca restarts: %v", err)
		}
	})
	if w := <-warnings; !strings.Contains(w, "external CA") {
		t.Errorf("without step-ca: %s", w)
	}
	step.start(t)
	wg.Wait()
}

func lists(crl *x509.RevocationList, c *x509.Certificate) bool {
	for _, e := range crl.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
			return true
		}
	}
	return false
}

// TestExternalCARefuses: a wrong key, a CA that is another one, and a mesh whose members trust the embedded one.
func TestExternalCARefuses(t *testing.T) {
	t.Parallel()
	step := newStepCA(t, shortClaims)
	other := step.external
	dir := newDir(t)
	try := func(e ca.External, want string) {
		t.Helper()
		if s, err := control.New(t.Context(), control.Config{Dir: dir, CA: e}); err == nil {
			t.Errorf("accepted, %v", s.Close())
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	try(ca.External{URL: other.URL}, "is missing: an external CA needs")
	other.Provisioner = "somebody"
	try(other, "the external CA refused sign (401)")
	other = step.external
	other.PasswordFile = ""
	try(other, "key_file")
	other = step.external
	if err := os.Chmod(other.KeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	try(other, "may be read by others")
	if err := os.Chmod(other.KeyFile, 0o600); err != nil {
		t.Fatal(err)
	}
	stranger := newStepCA(t, nil)
	other.RootFile = stranger.external.RootFile
	try(other, "unknown authority")

	p := serve(t, dir)
	p.join(t, "payments", "")
	p.stop()
	try(step.external, "members with certificates of the embedded authority")

	// A directory that has not been in use takes the flags of mesh serve.
	fresh := newDir(t)
	warnings := make(heard, 1)
	log := slog.New(slog.NewTextHandler(warnings, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := control.New(t.Context(), control.Config{Dir: fresh, CA: stranger.external, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if w := <-warnings; !strings.Contains(w, "disableRenewal") {
		t.Error(w)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// heard takes what is logged.
type heard chan string

func (h heard) Write(line []byte) (int, error) {
	select {
	case h <- string(line):
	default:
	}
	return len(line), nil
}

// enrolled is an identity alone, without a mesh.
func enrolled(t *testing.T, p *plane, service string) *identity.StepCA {
	t.Helper()
	b, err := p.admin.Token(t.Context(), service, 0)
	if err != nil {
		t.Fatal(err)
	}
	src, err := newIdentity(t.Context(), b, service, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() }) // it returns nil
	return src
}

func newIdentity(ctx context.Context, b *mesh.Bootstrap, service string, log *slog.Logger) (*identity.StepCA, error) {
	id, err := spiffeid.FromString("spiffe://example.test/" + service)
	if err != nil {
		return nil, err
	}
	return identity.NewStepCA(ctx, identity.StepCAConfig{URL: b.CA, RootFingerprint: b.RootFingerprint, Token: b.Token, ID: id, Logger: log})
}

func enrol(ctx context.Context, b *mesh.Bootstrap, service string, log *slog.Logger) error {
	src, err := newIdentity(ctx, b, service, log)
	if err != nil {
		return err
	}
	return src.Close()
}

// freeAddr is one that nobody else is given by chance: below those that systems hand out for port 0.
func freeAddr(t *testing.T) string {
	t.Helper()
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
}
