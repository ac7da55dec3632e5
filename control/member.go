package control

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

// startMesh makes the control plane a member of its own mesh: the seed of the gossip, and the
// service mesh/control.
func (s *Server) startMesh(ctx context.Context, last Addresses) error {
	var err error
	if s.source, err = s.ca.Source(wire.ControlService); err != nil {
		return err
	}
	ip := advertised(ctx, s.settings.Advertise)
	err = bind(s.log, "gossip", s.settings.Listen.Gossip, last.Gossip, func(addr string) error {
		bindTo, err := gossipBind(addr)
		if err != nil {
			return err
		}
		s.gossip, err = gossip.Join(ctx, gossip.Config{
			BindAddr: bindTo, Advertise: ip, Keys: s.keyring.current(), Seeds: s.otherSeeds(), Label: s.settings.TrustDomain,
			Identity: identity.NewCredential(s.source), Dir: s.path(gossipDir), Logger: s.log,
			ProbeInterval: s.settings.ProbeInterval,
		})
		return err
	})
	if err != nil {
		return err
	}
	s.onClose(func(ctx context.Context) error {
		if err := s.gossip.Leave(ctx); err != nil { // they find out by themselves
			s.log.Info("closed before others had heard that this control plane left", "error", err)
		}
		return s.gossip.Close()
	})
	host, _, err := net.SplitHostPort(s.settings.Listen.Gossip)
	if err != nil {
		return err
	}
	s.listens.Gossip = net.JoinHostPort(host, strconv.Itoa(int(s.gossip.Addr().Port())))

	cfg := mesh.Config{
		Service: wire.ControlService, Identity: s.source, Discovery: s.gossip,
		Policy: policy.AuthorizerFunc(s.authorize), Logger: s.log,
	}
	if ip.IsValid() {
		cfg.Advertise = ip.String()
	}
	if s.mesh, err = mesh.Join(ctx, cfg); err != nil {
		return err
	}
	s.onClose(func(context.Context) error { return s.mesh.Close() })

	var ln net.Listener
	err = bind(s.log, "mesh", s.settings.Listen.Mesh, last.Mesh, func(addr string) (err error) {
		ln, err = s.mesh.Listen(ctx, "tcp", addr)
		return err
	})
	if err != nil {
		return err
	}
	s.listens.Mesh = ln.Addr().String()
	srv := s.httpServer(s.mesh.Handler(s.memberAPI()))
	s.serve("mesh", func() error { return srv.Serve(ln) })
	s.onClose(shutdown(srv))
	return nil
}

// authorize lets every member in: what they get here, every member may have.
func (s *Server) authorize(_ context.Context, r *policy.Request) policy.Decision {
	d := policy.Decision{Rule: -1, Layer: r.Layer, Reason: "the control plane is for members of " + s.settings.TrustDomain}
	if r.Source.TrustDomain() == s.ca.TrustDomain() {
		d.Verdict = policy.Allow
	}
	return d
}

// httpServer is one whose answers may take as long as a long poll. (A ReadTimeout would end an
// HTTP/1.1 request that waits for its answer.)
func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      maxWait + 15*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// shutdown lets requests under way end until ctx does.
func shutdown(srv *http.Server) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := srv.Shutdown(ctx); err != nil {
			return srv.Close()
		}
		return nil
	}
}

// otherSeeds are where the other replicas gossip.
func (s *Server) otherSeeds() (seeds []string) {
	for _, a := range s.replicas.all()[1:] {
		seeds = append(seeds, a.Gossip)
	}
	return seeds
}

// seeds are this member and some others, so that a new one gets in by more than one way.
func (s *Server) seeds() []string {
	seeds := append([]string{s.Addresses().Gossip}, s.otherSeeds()...)
	seeds = seeds[:min(len(seeds), 4)]
	for _, m := range s.gossip.Members() {
		if !m.Self && m.Suspect.IsZero() && len(seeds) < 4 {
			seeds = append(seeds, m.Addr.String())
		}
	}
	return seeds
}
