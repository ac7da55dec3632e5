package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// FilesConfig names the files of a [Files] source. It is copied.
type FilesConfig struct {
	// CertFile holds the leaf and then its intermediates, KeyFile the key (PKCS #8, SEC 1 or
	// PKCS #1); they may be one file. RootsFile holds the roots of the leaf's trust domain. All
	// are PEM, of at most 1 MiB.
	CertFile, KeyFile, RootsFile string
	// Poll is how often the files are read again. 0 means 5 s.
	Poll time.Duration
	// Logger is told of changes, of those that could not be taken, and of a key file that others
	// may read. nil discards.
	Logger *slog.Logger
}

const (
	defaultPoll  = 5 * time.Second
	maxFileBytes = 1 << 20
)

// Files is a Source of PEM files that something else keeps up to date, such as cert-manager or
// step's renewal daemon. The contents are compared, not the times, so a rename, a switched
// symbolic link (Kubernetes) and a rewrite in place are all noticed.
//
// A certificate is taken once it fits its key, verifies by the roots, and is for the same
// SPIFFE ID as the first; until then, as while the files are being replaced one after another, the
// former one stays. Roots are taken as soon as they parse. It is safe for concurrent use.
type Files struct {
	current
	cfg FilesConfig
	log *slog.Logger

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// fileSet is what was read at one time.
type fileSet struct{ cert, key, roots []byte }

// NewFiles reads the files. It is an error when one is missing or is not what it should be,
// or when the certificate is expired or not below the roots.
func NewFiles(cfg FilesConfig) (*Files, error) {
	f := &Files{cfg: cfg, log: cfg.Logger}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if f.cfg.Poll == 0 {
		f.cfg.Poll = defaultPoll
	}
	f.help = "there is no newer one in " + cfg.CertFile
	seen, err := f.read()
	if err == nil {
		err = f.first(seen)
	}
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	f.warnOfOpenKey()
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	f.wg.Go(func() { f.run(ctx, seen) })
	return f, nil
}

// Close stops reading the files. GetX509SVID goes on answering until the certificate expires. It
// returns nil, and may be called again.
func (f *Files) Close() error {
	f.cancel()
	f.wg.Wait()
	return nil
}

func (f *Files) read() (s fileSet, err error) {
	if s.cert, err = readFile(f.cfg.CertFile, maxFileBytes); err != nil {
		return s, err
	}
	if s.key, err = readFile(f.cfg.KeyFile, maxFileBytes); err != nil {
		return s, err
	}
	s.roots, err = readFile(f.cfg.RootsFile, maxFileBytes)
	return s, err
}

func (f *Files) first(s fileSet) error {
	svid, err := f.pair(s)
	if err != nil {
		return err
	}
	bundle, err := parseRoots(svid.ID.TrustDomain(), s.roots)
	if err != nil {
		return fmt.Errorf("%s: %w", f.cfg.RootsFile, err)
	}
	if err := checkIssued(svid, bundle); err != nil {
		return fmt.Errorf("%s by the roots in %s: %w", f.cfg.CertFile, f.cfg.RootsFile, err)
	}
	f.set(svid, bundle)
	return nil
}

// run takes what changes until ctx is done. What could not be taken is looked at again at
// each turn, since time alone may mend it, and reported once.
func (f *Files) run(ctx context.Context, seen fileSet) {
	var trouble string
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(f.cfg.Poll):
		}
		s, err := f.read()
		if err == nil {
			if trouble == "" && seen.equal(s) {
				continue
			}
			seen = s
			err = f.take(s)
		}
		switch {
		case err == nil:
			trouble = ""
		case err.Error() != trouble:
			trouble = err.Error()
			f.log.Warn("the identity files changed, but not everything could be taken", "error", err)
		}
	}
}

// take uses what can be used of s and returns why the rest can't.
func (f *Files) take(s fileSet) error {
	have := f.snapshot.Load()
	bundle, rootsErr := parseRoots(have.svid.ID.TrustDomain(), s.roots)
	if rootsErr != nil {
		bundle, rootsErr = have.bundle, fmt.Errorf("%s: %w", f.cfg.RootsFile, rootsErr)
	}
	svid, err := f.pair(s)
	switch {
	case err != nil:
	case svid.ID != have.svid.ID:
		err = fmt.Errorf("%s is for %s now, and this process is %s: restart it if that is meant", f.cfg.CertFile, svid.ID, have.svid.ID)
	default:
		if err = checkIssued(svid, bundle); err != nil {
			err = fmt.Errorf("%s: %w", f.cfg.CertFile, err)
		}
	}
	if err != nil {
		svid = have.svid
	}
	if !bundle.Equal(have.bundle) || !slices.EqualFunc(svid.Certificates, have.svid.Certificates, (*x509.Certificate).Equal) {
		f.set(svid, bundle)
		f.log.Info("the identity files changed", "id", svid.ID.String(), "expires", expiry(svid.Certificates))
	}
	return errors.Join(rootsErr, err)
}

// pair parses the certificate and its key.
func (f *Files) pair(s fileSet) (*x509svid.SVID, error) {
	c, err := tls.X509KeyPair(s.cert, s.key)
	if err != nil {
		return nil, fmt.Errorf("%s with key %s: %w", f.cfg.CertFile, f.cfg.KeyFile, err)
	}
	signer, ok := c.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a %T can't sign", f.cfg.KeyFile, c.PrivateKey)
	}
	svid := &x509svid.SVID{PrivateKey: signer}
	for _, der := range c.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.cfg.CertFile, err)
		}
		svid.Certificates = append(svid.Certificates, cert)
	}
	if svid.ID, err = uriSAN(svid.Certificates[0]); err != nil {
		return nil, fmt.Errorf("%s: %w", f.cfg.CertFile, err)
	}
	return svid, nil
}

func (f *Files) warnOfOpenKey() {
	info, err := os.Stat(f.cfg.KeyFile)
	if err == nil && info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		f.log.Warn("the key file is not for its owner alone", "file", f.cfg.KeyFile, "mode", info.Mode().Perm().String())
	}
}

func (s fileSet) equal(o fileSet) bool {
	return bytes.Equal(s.cert, o.cert) && bytes.Equal(s.key, o.key) && bytes.Equal(s.roots, o.roots)
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, err
}
