package control

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/internal/atomicfile"
)

const (
	adminDir = "admin"
	// adminIdentityFile is the first operator's identity.
	adminIdentityFile = "admin.pem"
)

// createAdmin makes the operators' authority and the first operator.
func createAdmin(dir string) error {
	if err := admin.CreateAuthority(filepath.Join(dir, adminDir)); err != nil {
		return err
	}
	a, err := admin.LoadAuthority(filepath.Join(dir, adminDir))
	if err != nil {
		return err
	}
	identity, _, err := a.Issue("admin", admin.Admin, 365*24*time.Hour)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, adminIdentityFile), identity, 0o600)
}

// IssueAdmin makes an identity for an operator, for [admin.Dial], with the authority in the control plane's directory. What
// serial names can be revoked later.
func IssueAdmin(dir, name string, role admin.Role, lifetime time.Duration) (identity []byte, serial string, err error) {
	a, err := admin.LoadAuthority(filepath.Join(dir, adminDir))
	if err != nil {
		return nil, "", err
	}
	return a.Issue(name, role, lifetime)
}

// startAdminListener takes operators from elsewhere, if the settings say where.
func (s *Server) startAdminListener(ctx context.Context, last Addresses) error {
	if s.settings.Listen.Admin == "" {
		return nil
	}
	authority, err := admin.LoadAuthority(s.path(adminDir))
	if err != nil {
		return err
	}
	if err := s.operators.refresh(ctx); err != nil {
		return err
	}
	s.wg.Go(func() { s.operators.follow(s.ctx, s.log) })
	var ln net.Listener
	err = bind(s.log, "admin", s.settings.Listen.Admin, last.Admin, func(addr string) error {
		ln, err = new(net.ListenConfig).Listen(ctx, "tcp", addr)
		return err
	})
	if err != nil {
		return err
	}
	s.listens.Admin = ln.Addr().String()
	srv := s.httpServer(admin.Authenticate(admin.Handler(operator{s}, s.log), s.operators.isRevoked))
	s.serve("admin interface", func() error {
		return srv.Serve(tls.NewListener(ln, authority.ServerTLS(s.settings.Advertise)))
	})
	s.onClose(shutdown(srv))
	return nil
}

// revokedOperators are the serial numbers of operators' certificates that are refused. They are in memory: a request is
// decided without the store.
type revokedOperators struct {
	table store.Table[time.Time]

	mu      sync.Mutex
	serials map[string]bool
}

func (o *revokedOperators) isRevoked(serial string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.serials[serial]
}

func (o *revokedOperators) refresh(ctx context.Context) error {
	serials := make(map[string]bool)
	for e, err := range o.table.All(ctx) {
		if err != nil {
			return err
		}
		serials[e.Key] = true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.Copy(serials, o.serials) // nobody takes one back
	o.serials = serials
	return nil
}

// follow takes over what any replica revoked, until ctx is done.
func (o *revokedOperators) follow(ctx context.Context, log *slog.Logger) {
	watch := o.table.DB.Watch(ctx, o.table.Kind)
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-watch:
		case <-retry.C:
		}
		if err := o.refresh(ctx); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "revoked operators could not be read", "error", err)
			retry.Reset(time.Second)
		}
	}
}

// RevokeIdentity has an operator's certificate refused.
func (s operator) RevokeIdentity(ctx context.Context, serial string) (admin.Identity, error) {
	op, err := s.operators.table.Op(serial, time.Now().UTC(), 0)
	if err != nil {
		return admin.Identity{}, err
	}
	if _, err := s.db.Commit(ctx, op, store.Audit(ctx, "operator revoked", serial, "")); err != nil {
		return admin.Identity{}, err
	}
	return admin.Identity{Serial: serial}, s.operators.refresh(ctx)
}
