package control

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"strings"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/control/store"
)

// startEnrolment makes what decides who gets a first certificate.
func (s *Server) startEnrolment() (err error) {
	s.gate, err = enrol.New(enrol.Config{
		TrustDomain: s.settings.TrustDomain, DB: s.db, Settings: s.settings.Enrol, Logger: s.log,
		Admit: func(ctx context.Context, service string) error {
			err := s.ca.Admit(ctx, service)
			if _, revoked := errors.AsType[*ca.RevokedError](err); revoked {
				err = enrol.Forbid(err)
			}
			return err
		},
		Issue: func(service, csr string) (string, error) {
			return s.ca.OneTimeToken(service, csr, s.replicas.caHosts()...)
		},
	})
	if err == nil {
		s.onClose(func(context.Context) error { return s.gate.Close() })
	}
	return err
}

// CreateToken makes a join token and tells the addresses.
func (s operator) CreateToken(ctx context.Context, spec enrol.Spec) (admin.Created, error) {
	if spec.Lifetime == 0 {
		spec.Lifetime = s.settings.TokenLifetime
	}
	if err := spec.Check(); err != nil {
		return admin.Created{}, admin.Refuse(http.StatusBadRequest, err)
	}
	value, t, err := s.gate.Create(ctx, spec)
	if err != nil {
		return admin.Created{}, err
	}
	s.log.InfoContext(ctx, "token created", "token", t.ID, "allows", spec.String())
	b, err := s.Bootstrap(ctx)
	if err != nil {
		return admin.Created{}, err
	}
	b.Token = value
	if len(t.Services) == 1 && !strings.Contains(t.Services[0], "*") {
		b.Service = t.Services[0]
	}
	return admin.Created{Token: t, Bootstrap: b}, nil
}

// Tokens lists them.
func (s operator) Tokens(ctx context.Context) ([]enrol.Token, error) { return s.gate.Tokens(ctx) }

// RevokeToken makes one useless.
func (s operator) RevokeToken(ctx context.Context, id string) (enrol.Token, error) {
	t, err := s.gate.Revoke(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return t, admin.Refuse(http.StatusNotFound, err)
	}
	if err == nil {
		s.log.InfoContext(ctx, "token revoked", "token", id)
	}
	return t, err
}

// Bootstrap tells the addresses and whom to trust.
func (s operator) Bootstrap(context.Context) (*mesh.Bootstrap, error) {
	all := s.replicas.all()
	var control []string
	for _, a := range all {
		control = append(control, a.Mesh)
	}
	public, _ := s.bundleKey.Public().(ed25519.PublicKey)
	return &mesh.Bootstrap{
		TrustDomain:     s.settings.TrustDomain,
		CA:              ca.URL(all[0].CA),
		OtherCAs:        caURLs(all[1:]),
		RootFingerprint: s.ca.Fingerprint(),
		Control:         control,
		BundleKeys:      [][]byte{public},
	}, nil
}
