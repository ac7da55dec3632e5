package identity

import (
	"errors"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Static returns a Source of one SVID and one bundle per trust domain, for tests and
// for processes that do not outlive their certificate. Nothing is checked, the expiry
// included: peers do that. A nil svid makes GetX509SVID fail, so that it can verify but not be verified.
func Static(svid *x509svid.SVID, bundles ...*x509bundle.Bundle) Source {
	return &static{x509bundle.NewSet(bundles...), svid}
}

type static struct {
	*x509bundle.Set
	svid *x509svid.SVID
}

func (s *static) GetX509SVID() (*x509svid.SVID, error) {
	if s.svid == nil {
		return nil, errors.New("identity: no certificate")
	}
	return s.svid, nil
}
