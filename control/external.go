package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// externalTimeout is how long an external CA may take to answer when the control plane starts.
const externalTimeout = 30 * time.Second

// withCA has what was said when the control plane was started count before its settings.
func withCA(s, now ca.External) (ca.External, error) {
	s.URL, s.RootFile, s.Provisioner = cmp.Or(now.URL, s.URL), cmp.Or(now.RootFile, s.RootFile), cmp.Or(now.Provisioner, s.Provisioner)
	s.KeyFile, s.PasswordFile = cmp.Or(now.KeyFile, s.KeyFile), cmp.Or(now.PasswordFile, s.PasswordFile)
	if s == (ca.External{}) {
		return s, nil
	}
	if err := s.Check(); err != nil {
		return s, fmt.Errorf("ca: %w", err)
	}
	return s, nil
}

// openCA opens the embedded CA, or one that an external one signs for.
func (s *Server) openCA(ctx context.Context, cfg ca.Config) (err error) {
	if s.settings.CA == (ca.External{}) {
		if s.ca, err = ca.Open(cfg); err == nil {
			_, _, err = s.loadAuthorities(ctx)
		}
		return err
	}
	if _, _, err := s.authorities().Get(ctx, authoritiesKey); !errors.Is(err, store.ErrNotFound) {
		if err == nil {
			err = errors.New("members trust the embedded authority, whose root was replaced before: make a new mesh for an external CA")
		}
		return err
	}
	td, err := spiffeid.TrustDomainFromString(s.settings.TrustDomain)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, externalTimeout)
	defer cancel()
	s.ca, err = ca.OpenExternal(ctx, cfg, td, s.settings.CA, s.path(externalDir))
	return err
}

// embedded refuses what an external CA does itself.
func (s operator) embedded() error {
	if s.ca.External() {
		return admin.Refuse(http.StatusConflict, ca.ErrExternal)
	}
	return nil
}

// externalAuthorities are the roots of the external CA, as members trust them.
func (s operator) externalAuthorities() (a admin.Authorities) {
	for _, t := range s.ca.Issuers() {
		root, intermediate := t.Fingerprints()
		a.Trusted = append(a.Trusted, admin.Issuer{Root: root, Intermediate: intermediate, Expires: t.Expires(), Active: intermediate != ""})
	}
	return a
}
