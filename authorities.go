package mesh

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/url"

	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

// followAuthorities tells a source that can make use of it what the certificate authority hands out now.
func (m *Mesh) followAuthorities(engine *policy.Engine) {
	f, ok := m.identity.(interface {
		Follow(roots []string, issuer string)
	})
	if a := engine.Authorities(); ok && a != nil {
		f.Follow(a.Roots, a.Issuer)
	}
}

// errTrust ends a poll for newer rules since there is something else to report.
var errTrust = errors.New("the certificate or the roots changed")

// reportTrust adds to a poll which roots this process trusts, and by whom its certificate is. The context that it returns
// ends, with errTrust as its cause, when that changes.
func (m *Mesh) reportTrust(ctx context.Context, q url.Values) (context.Context, func()) {
	change := changed(m.identity)
	if b, err := m.identity.GetX509BundleForTrustDomain(m.trustDomain); err == nil {
		roots := b.X509Authorities()
		for _, r := range roots[:min(len(roots), wire.MaxRoots)] {
			q.Add("root", fingerprint(r))
		}
	}
	if svid, err := m.identity.GetX509SVID(); err == nil && len(svid.Certificates) > 1 {
		q.Set("issuer", fingerprint(svid.Certificates[1]))
	}
	if change == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-change:
			cancel(errTrust)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
