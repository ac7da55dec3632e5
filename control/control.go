// Package control is the control plane of a mesh: the certificate authority that members
// enrol with, the store of rules and the signed bundle they travel in, and the seed of the
// gossip. The command "mesh" is a thin layer over it.
//
//	err := control.Init("mesh-data", control.Settings{TrustDomain: "example.test"})
//	s, err := control.New(ctx, control.Config{Dir: "mesh-data"})
//	defer s.Close()
//	err = s.Serve(ctx)
//
// Everything an operator does (tokens, rules, members) goes over the unix socket
// DIR/admin.sock, or from elsewhere over TLS with a certificate; package
// [github.com/intramesh/mesh/control/admin] is its client.
//
// Several servers run on one etcd ([Settings].Store, [NewReplica]): each answers anything, and members go to
// another one when theirs is gone. docs/operations.md has the rest.
package control

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/discovery/gossip"
)

// Config tells [New] what to run.
type Config struct {
	// Dir is a directory that [Init] made.
	Dir string
	// Store, when it is not "", is instead of Settings.Store.
	Store string
	// CA, field by field, is instead of Settings.CA.
	CA ca.External
	// Logger takes what the control plane has to say; nil discards it.
	Logger *slog.Logger
}

// closeTimeout bounds how long Close waits for requests under way and for goodbyes.
const closeTimeout = 3 * time.Second

// A Server is a running control plane. It is safe for concurrent use.
type Server struct {
	cfg       Config
	settings  Settings
	log       *slog.Logger
	listens   Addresses
	bundleKey ed25519.PrivateKey

	ca        *ca.CA
	using     atomic.Uint64 // the revision of the authorities that it works with
	gate      *enrol.Gate
	db        store.DB
	rules     *store.RuleBook
	replicas  *replicas
	operators *revokedOperators
	pub       *publisher
	polls     *polls
	source    *ca.Source // who this is
	keyring   *keyring
	gossip    *gossip.Member
	mesh      *mesh.Mesh

	ctx     context.Context // ends when closing begins
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	failed  chan error // the first server that ended by itself
	once    sync.Once
	closers []func(context.Context) error // in the order of starting
	closed  error
}

// New opens dir and starts everything; when it returns, members can enrol and join and
// the admin socket answers. ctx bounds the start only. The caller must Close.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, log: cfg.Logger, polls: newPolls(), failed: make(chan error, 1)}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("control: %w", err), s.Close())
	}
	return s, nil
}

// start starts the parts in the order in which they need each other. The store comes first: its
// lock keeps a second server out of the directory.
func (s *Server) start(ctx context.Context) (err error) {
	if _, err := admin.SocketPath(s.cfg.Dir); err != nil {
		return err
	}
	if s.settings, err = loadSettings(s.cfg.Dir); err != nil {
		return err
	}
	if s.cfg.Store != "" {
		s.settings.Store = s.cfg.Store
	}
	if s.settings.CA, err = withCA(s.settings.CA, s.cfg.CA); err != nil {
		return err
	}
	last, err := loadAddresses(s.cfg.Dir)
	if err != nil {
		return err
	}
	if s.bundleKey, err = loadBundleKey(s.cfg.Dir); err != nil {
		return err
	}
	if err := s.startCA(ctx, last); err != nil {
		return err
	}
	if s.keyring, err = openKeyring(ctx, s.cfg.Dir, s.db); err != nil {
		return err
	}
	if err := s.startMesh(ctx, last); err != nil {
		return err
	}
	if err := s.startAdminListener(ctx, last); err != nil {
		return err
	}
	if s.listens != last {
		if err := s.listens.save(s.cfg.Dir); err != nil {
			return err
		}
	}
	if err := s.replicas.announce(ctx, s.Addresses()); err != nil {
		return err
	}
	s.wg.Go(func() { s.beat(s.ctx) })
	s.wg.Go(func() { s.sweep(s.ctx) })
	s.wg.Go(func() { s.followKeyring(s.ctx) })
	if !s.ca.External() {
		s.wg.Go(func() { s.rotate(s.ctx) })
	}
	if err := s.startAdmin(ctx); err != nil {
		return err
	}
	s.log.Info("control plane is up", "trust_domain", s.settings.TrustDomain,
		"ca", s.listens.CA, "mesh", s.listens.Mesh, "gossip", s.listens.Gossip, "rules", s.rules.Rules().Version)
	return nil
}

func (s *Server) startCA(ctx context.Context, last Addresses) (err error) {
	check := func(r store.Rules) error { return s.pub.check(r) } // the two need each other
	if s.db, err = openStore(ctx, s.cfg.Dir, s.settings, s.log); err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return s.db.Close() })
	s.replicas = &replicas{table: store.Table[replica]{DB: s.db, Kind: store.KindReplicas}}
	s.operators = &revokedOperators{table: store.Table[time.Time]{DB: s.db, Kind: store.KindOperators}}
	if err := s.replicas.refresh(ctx); err != nil {
		return err
	}
	if s.rules, err = store.OpenRules(ctx, s.db, check, s.log); err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return s.rules.Close() })
	seals, err := loadSecrets(s.cfg.Dir, sealKeyFile)
	if err != nil {
		return err
	}
	if err := s.openCA(ctx, ca.Config{
		Dir: s.path(caDir), DB: s.db, Host: s.settings.Advertise, SealKey: seals[0],
		Lifetime: s.settings.CertificateLifetime, Logger: s.log,
	}); err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return s.ca.Close() })
	if td := s.ca.TrustDomain().Name(); td != s.settings.TrustDomain {
		return fmt.Errorf("%s says trust_domain %s, but the certificates are for %s: it can't be changed", settingsFile, s.settings.TrustDomain, td)
	}
	if s.pub, err = newPublisher(s.ca.TrustDomain(), s.bundleKey, s.rules); err != nil {
		return err
	}
	s.wg.Go(func() { s.pub.follow(s.ctx, s.log) })

	var ln net.Listener
	err = bind(s.log, "ca", s.settings.Listen.CA, last.CA, func(addr string) error {
		ln, err = new(net.ListenConfig).Listen(ctx, "tcp", addr)
		return err
	})
	if err != nil {
		return err
	}
	s.listens.CA = ln.Addr().String()
	s.replicas.setSelf(Addresses{CA: s.reach(s.listens.CA)}) // whoever enrols from now on needs no more
	if err := s.startEnrolment(); err != nil {
		return err
	}
	srv := s.ca.Server(s.gate)
	s.serve("ca", func() error { return srv.ServeTLS(ln, "", "") })
	s.onClose(shutdown(srv))
	return nil
}

// Addresses returns where members reach the server.
func (s *Server) Addresses() Addresses {
	a := Addresses{CA: s.reach(s.listens.CA), Mesh: s.reach(s.listens.Mesh), Gossip: s.reach(s.listens.Gossip)}
	if s.listens.Admin != "" {
		a.Admin = s.reach(s.listens.Admin)
	}
	return a
}

func (s *Server) reach(listen string) string {
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		panic("control: a listener's address has no port: " + listen)
	}
	return net.JoinHostPort(s.settings.Advertise, port)
}

// TrustDomain returns the mesh's.
func (s *Server) TrustDomain() string { return s.settings.TrustDomain }

// serve runs a server that ends with an error only when it was not asked to.
func (s *Server) serve(what string, run func() error) {
	s.wg.Go(func() {
		if err := run(); s.ctx.Err() == nil {
			select {
			case s.failed <- fmt.Errorf("control: %s: %w", what, err):
			default: // one is enough
			}
		}
	})
}

func (s *Server) onClose(f func(context.Context) error) { s.closers = append(s.closers, f) }

// Serve blocks until ctx is done (then it closes the server gracefully and returns nil) or
// something that the control plane can't do without fails.
func (s *Server) Serve(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return s.Close()
	case <-s.ctx.Done():
		return s.Close()
	case err := <-s.failed:
		return errors.Join(err, s.Close())
	}
}

// Admin returns a client of this server.
func (s *Server) Admin() (*admin.Client, error) { return admin.NewClient(s.cfg.Dir) }

// Close ends the server: long polls are answered, short requests have 3 s, the gossip pool
// hears a goodbye. It waits for everything that New started, and is idempotent.
func (s *Server) Close() error {
	s.once.Do(func() {
		s.cancel()
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		// What listens, before what it needs.
		for _, end := range slices.Backward(s.closers) {
			s.closed = errors.Join(s.closed, end(ctx))
		}
		s.wg.Wait()
	})
	return s.closed
}
