package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	externalRootsFile = "roots.pem"
	refreshExternal   = time.Hour   // of the roots
	maxExternalNap    = time.Minute // timers stand still while a machine is suspended
	minExternalRetry  = time.Second
)

// external is the external CA at work: what the control plane itself has of it, kept fresh, and in a directory so that
// the control plane starts when the CA is away.
type external struct {
	*stepCA
	dir    string
	pinned []*x509.Certificate // of the settings
	use    func(roots []*x509.Certificate)
	log    *slog.Logger

	now     atomic.Pointer[[]*x509.Certificate] // the roots
	server  own
	control own
	refresh time.Time

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// own is a certificate of the control plane itself. Its file holds the key and the chain, PEM.
type own struct {
	file string
	id   spiffeid.ID // or
	host string
	cert atomic.Pointer[ownCert]
}

type ownCert struct {
	tls.Certificate
	chain []*x509.Certificate
}

func (o *own) san() string {
	if o.host != "" {
		return o.host
	}
	return o.id.String()
}

func (o *own) request(key *ecdsa.PrivateKey) (*x509.CertificateRequest, error) {
	t := &x509.CertificateRequest{}
	switch ip := net.ParseIP(o.host); {
	case o.host == "":
		t.URIs = []*url.URL{o.id.URL()}
	case ip != nil:
		t.IPAddresses = []net.IP{ip}
	default:
		t.DNSNames = []string{o.host}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificateRequest(der)
}

// check makes sure that a certificate is of use.
func (o *own) check(certs, roots []*x509.Certificate) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: o.host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, r := range roots {
		opts.Roots.AddCert(r)
	}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := certs[0].Verify(opts); err != nil {
		return err
	}
	if o.host == "" && (len(certs[0].URIs) != 1 || certs[0].URIs[0].String() != o.id.String() || len(certs[0].DNSNames) > 0) {
		return fmt.Errorf("it is not for %s alone: has the provisioner a template?", o.id)
	}
	return nil
}

// due is when to replace it: at two thirds of its life.
func (o *own) due() time.Time {
	c := o.cert.Load()
	if c == nil {
		return time.Time{}
	}
	return c.Leaf.NotBefore.Add(c.Leaf.NotAfter.Sub(c.Leaf.NotBefore) * 2 / 3)
}

func (o *own) usable() bool {
	return o.cert.Load() != nil && time.Now().Before(o.cert.Load().Leaf.NotAfter)
}

// load takes over what an earlier run had, if it counts still.
func (o *own) load(dir string, roots []*x509.Certificate) error {
	path := filepath.Join(dir, o.file)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c := &ownCert{}
	if c.Certificate, err = tls.X509KeyPair(data, data); err == nil {
		c.chain, err = x509.ParseCertificates(bytes.Join(c.Certificate.Certificate, nil))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if o.check(c.chain, roots) == nil { // else it is replaced
		o.cert.Store(c)
	}
	return nil
}

// replace gets a new certificate with a new key.
func (e *external) replace(ctx context.Context, o *own) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := o.request(key)
	if err != nil {
		return err
	}
	roots := *e.now.Load()
	chain, err := e.sign(ctx, roots, csr, o.san())
	if err != nil {
		return err
	}
	c := &ownCert{tls.Certificate{PrivateKey: key, Leaf: chain[0]}, chain}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for _, cert := range chain {
		c.Certificate.Certificate = append(c.Certificate.Certificate, cert.Raw)
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	if err := o.check(chain, roots); err != nil {
		return fmt.Errorf("the external CA answered with a certificate that can't be used: %w", err)
	}
	o.cert.Store(c)
	e.log.Info("certificate of the control plane replaced", "for", o.san(), "serial", c.Leaf.SerialNumber, "expires", c.Leaf.NotAfter)
	return atomicfile.Write(filepath.Join(e.dir, o.file), text, 0o600)
}

// start leaves e with certificates that count, or returns an error. The CA may start at the same time: until ctx is done it is
// asked again while it can't be reached.
func (e *external) start(ctx context.Context) error {
	if err := atomicfile.MkdirAll(e.dir); err != nil {
		return err
	}
	if err := e.loadRoots(); err != nil {
		return err
	}
	for _, o := range []*own{&e.server, &e.control} {
		if err := o.load(e.dir, *e.now.Load()); err != nil {
			return err
		}
	}
	for {
		err := e.tend(ctx)
		if err == nil {
			err = e.warn(ctx)
		}
		if err == nil {
			break
		}
		if e.server.usable() && e.control.usable() {
			e.log.Warn("the external CA does not answer as it should; starting with the certificates of the last run", "error", err)
			break
		}
		if _, refused := errors.AsType[*ExternalError](err); refused {
			return err
		}
		if _, away := errors.AsType[*net.OpError](err); !away {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(minExternalRetry):
		}
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.cancel = cancel
	e.wg.Go(func() { e.run(run) })
	return nil
}

// warn tells of a setting of the CA that revocations depend on.
func (e *external) warn(ctx context.Context) error {
	yes, err := e.renews(ctx, *e.now.Load(), &e.control.cert.Load().Certificate)
	if yes {
		e.log.Warn("the external CA renews certificates for whoever reaches it, past the control plane: who was revoked can get a new one there; set disableRenewal in the claims of its provisioner",
			"ca", e.url, "provisioner", e.provisioner)
	}
	return err
}

// loadRoots begins with the roots of the last run, unless the settings name another CA by now.
func (e *external) loadRoots() error {
	last, err := readRoots(filepath.Join(e.dir, externalRootsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !slices.ContainsFunc(last, func(r *x509.Certificate) bool { return slices.ContainsFunc(e.pinned, r.Equal) }) {
		last = e.pinned
	}
	e.set(last)
	return nil
}

func (e *external) set(roots []*x509.Certificate) {
	e.now.Store(&roots)
	e.use(roots)
}

// tend fetches the roots and replaces what is due.
func (e *external) tend(ctx context.Context) error {
	if time.Now().After(e.refresh) {
		roots, err := e.roots(ctx, *e.now.Load())
		if err != nil {
			return err
		}
		e.set(roots)
		e.refresh = time.Now().Add(refreshExternal)
		var text []byte
		for _, r := range roots {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Raw})...)
		}
		if err := atomicfile.Write(filepath.Join(e.dir, externalRootsFile), text, 0o600); err != nil {
			return err
		}
	}
	for _, o := range []*own{&e.server, &e.control} {
		if c := o.cert.Load(); c != nil && time.Now().Before(o.due()) {
			if o.check(c.chain, *e.now.Load()) == nil {
				continue
			}
		}
		if err := e.replace(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// run tends until ctx is done.
func (e *external) run(ctx context.Context) {
	failures := 0
	for {
		next := e.refresh
		for _, o := range []*own{&e.server, &e.control} {
			if o.due().Before(next) {
				next = o.due()
			}
		}
		wait := min(max(time.Until(next), 0), maxExternalNap)
		if failures > 0 {
			wait = min(minExternalRetry<<min(failures-1, 10), maxExternalNap)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if err := e.tend(ctx); err != nil && ctx.Err() == nil {
			failures++
			e.log.Warn("the control plane's own certificates and roots could not be kept fresh", "failures", failures, "expires", e.server.cert.Load().Leaf.NotAfter, "error", err)
			continue
		}
		failures = 0
	}
}

// svid is the control plane's identity.
func (e *external) svid(id spiffeid.ID) (*x509svid.SVID, error) {
	c := e.control.cert.Load()
	if id != e.control.id {
		return nil, fmt.Errorf("ca: the external CA signs for %s alone", e.control.id)
	}
	if time.Now().After(c.Leaf.NotAfter) {
		return nil, &identity.ExpiredError{ID: id, NotAfter: c.Leaf.NotAfter, Help: "the external CA has not signed a new one: see the log"}
	}
	key, ok := c.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("ca: a key of type %T can't sign", c.PrivateKey)
	}
	return &x509svid.SVID{ID: id, Certificates: c.chain, PrivateKey: key}, nil
}

func (e *external) close() {
	if e.cancel != nil {
		e.cancel()
		e.wg.Wait()
	}
}
