package mesh

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/intramesh/mesh/internal/dirlock"
	"github.com/intramesh/mesh/internal/onehttp"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// controlTimeout bounds one short call to the control plane.
	controlTimeout = 5 * time.Second
	// pollWait is how long the control plane may hold a request for newer rules.
	pollWait = 50 * time.Second
)

// lockState takes Config.StateDir for this process, until Close.
func (m *Mesh) lockState() error {
	dir := m.cfg.StateDir
	if dir == "" {
		return nil
	}
	err := atomicfile.MkdirAll(dir)
	var lock *os.File
	if err == nil {
		lock, err = dirlock.Acquire(dir)
	}
	if err != nil {
		return fmt.Errorf("Config.StateDir: %w", err)
	}
	m.closers = append(m.closers, func(context.Context) error { return lock.Close() })
	return nil
}

// stateDir returns a folder of Config.StateDir, made when needed, or "" when nothing is kept.
func (m *Mesh) stateDir(name string) (string, error) {
	if m.cfg.StateDir == "" {
		return "", nil
	}
	dir := filepath.Join(m.cfg.StateDir, name)
	if err := atomicfile.MkdirAll(dir); err != nil {
		return "", fmt.Errorf("Config.StateDir: %w", err)
	}
	return dir, nil
}

// enrol gets an identity from the control plane's authority, or from an earlier run.
func (m *Mesh) enrol(ctx context.Context, b *Bootstrap) error {
	dir, err := m.stateDir("identity")
	if err != nil {
		return err
	}
	cfg := identity.StepCAConfig{
		URL: b.CA, Others: m.knownCAs(), EnrolURL: b.Enrol, RootFingerprint: b.RootFingerprint, Token: b.Token, Dir: dir, Logger: m.log,
		DialContext: m.cfg.Network.DialContext,
	}
	if service := cmp.Or(m.cfg.Service, b.Service); service != "" {
		td, err := spiffeid.TrustDomainFromString(b.TrustDomain)
		if err != nil {
			return fmt.Errorf("Config.Bootstrap: trust_domain: %w", err)
		}
		if cfg.ID, err = spiffeid.FromPath(td, "/"+service); err != nil {
			return fmt.Errorf("Config.Bootstrap: service: %w", err)
		}
	}
	switch {
	case b.KubernetesToken != "":
		cfg.Prove = identity.KubernetesToken(b.KubernetesToken)
	case b.CertFile != "":
		cfg.Prove = identity.X509Proof(b.CertFile, b.KeyFile, cfg.ID)
	}
	ca, err := identity.NewStepCA(ctx, cfg)
	if err != nil {
		return err
	}
	m.closers = append(m.closers, func(context.Context) error { return ca.Close() })
	m.identity = ca
	return nil
}

// knownCAs are servers of the authority beside Bootstrap.CA, those that an earlier run was told of too.
func (m *Mesh) knownCAs() []string {
	others := m.cfg.Bootstrap.OtherCAs
	dir, err := m.stateDir("gossip")
	if err != nil {
		return others
	}
	if j, err := loadJoin(dir); err == nil && j != nil { // fetchJoin tells what is wrong with it
		others = append(slices.Clip(others), j.CAs...)
	}
	return others
}

// connect finds the other members and the rules.
func (m *Mesh) connect(ctx context.Context, b *Bootstrap) error {
	for _, a := range b.Control {
		if m.facing = facingAddr(ctx, a); m.facing.IsValid() {
			break
		}
	}
	control := static.New(controlEndpoints(ctx, b.Control, m.log)...)
	if m.discovery == nil {
		// Only the control plane is known yet: ask it for the rest.
		m.balance = newBalancers(control, m.cfg.Zone)
		if err := m.joinGossip(ctx, b); err != nil {
			return err
		}
	}
	m.discover()
	m.balance = newBalancers(withControl{m.discovery, control}, m.cfg.Zone)
	if m.rules == nil {
		return nil
	}
	m.rules.Start()
	return m.rules.WaitFirst(ctx)
}

// controlEndpoints resolves the addresses of the control plane. A name that can't be resolved now is no reason not to
// start from what is on disk.
func controlEndpoints(ctx context.Context, hostports []string, log *slog.Logger) []discovery.Endpoint {
	var eps []discovery.Endpoint
	for _, hp := range hostports {
		addrs, err := resolve(ctx, hp)
		if err != nil {
			log.Warn("an address of the control plane could not be resolved", "addr", hp, "error", err)
		}
		for _, a := range addrs {
			eps = append(eps, discovery.Endpoint{Service: wire.ControlService, Instance: "bootstrap-" + a.String(), Addr: a})
		}
	}
	return eps
}

func resolve(ctx context.Context, hostport string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(n)))
	}
	return addrs, nil
}

// withControl knows the control plane by its bootstrap addresses as long as discovery does not know it.
type withControl struct {
	discovery.Resolver
	control discovery.Resolver
}

func (r withControl) Lookup(service string) discovery.Snapshot {
	s := r.Resolver.Lookup(service)
	if service == wire.ControlService && len(s.Endpoints) == 0 {
		s.Endpoints = r.control.Lookup(service).Endpoints
	}
	return s
}

// joinGossip makes this process a member of the gossip pool.
func (m *Mesh) joinGossip(ctx context.Context, b *Bootstrap) error {
	dir, err := m.stateDir("gossip")
	if err != nil {
		return err
	}
	j, err := m.fetchJoin(ctx, dir)
	if err != nil {
		return err
	}
	g, err := gossip.Join(ctx, gossip.Config{
		BindAddr: m.gossipBind(), Advertise: m.gossipAdvertise(), Keys: j.GossipKeys, Seeds: j.Seeds,
		Identity: poolIdentity{m.credential, m.rules}, Label: b.TrustDomain, Zone: m.cfg.Zone, Dir: dir, Logger: m.log,
	})
	if err != nil {
		return err
	}
	m.closers = append(m.closers, func(ctx context.Context) error {
		return errors.Join(g.Leave(ctx), g.Close())
	})
	m.discovery, m.gossip, m.instance = g, g, g.Instance()
	return nil
}

// controlGet calls the control plane over the mesh. A nil body and a nil error is 204.
func (m *Mesh) controlGet(ctx context.Context, path string, q url.Values, timeout time.Duration, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	m.control.Lock()
	defer m.control.Unlock()
	for {
		c, used := m.control.conn, true
		m.control.conn = nil
		if c == nil {
			used = false
			raw, err := m.dial(ctx, target{service: wire.ControlService}, []string{alpnHTTP1})
			if err != nil {
				return nil, err
			}
			c = onehttp.NewConn(raw)
			c.Silence = wire.PollSilence
		}
		body, reuse, err := get(ctx, c, path, q, limit)
		if reuse {
			m.control.conn = c
		} else {
			_ = c.Close()
		}
		if err != nil && used && !reuse && ctx.Err() == nil {
			continue // the server closed it while it was idle, or is another one now
		}
		return body, err
	}
}

// poolIdentity is who this process is among those who gossip. Revoked members get no stream, and are not believed.
type poolIdentity struct {
	*identity.Credential
	rules *policy.Syncer // nil when Config.Policy is set
}

// VerifyMember implements [gossip.Identity].
func (p poolIdentity) VerifyMember(chain []*x509.Certificate) (service string, err error) {
	if service, err = p.Credential.VerifyMember(chain); err != nil || p.rules == nil {
		return service, err
	}
	id, err := spiffeid.FromURI(chain[0].URIs[0])
	if err != nil {
		return "", err
	}
	return service, policy.EngineOf(p.rules).Revoked(id, chain)
}

// controlConn is the connection to the control plane that is kept between calls.
type controlConn struct {
	sync.Mutex
	conn *onehttp.Conn // nil when there is none
}

// openRules makes m.rules, which begins with the last good ones.
func (m *Mesh) openRules(b *Bootstrap) error {
	dir, err := m.stateDir("rules")
	if err != nil {
		return err
	}
	s, err := policy.NewSyncer(policy.SyncConfig{
		TrustDomain: m.trustDomain, Keys: b.signers(), Dir: dir, Logger: m.log, Fetch: m.fetchRules, FetchElsewhere: m.askPeersForRules,
	})
	if err != nil {
		return err
	}
	m.policy, m.rules = s, s
	return nil
}

func (m *Mesh) fetchRules(ctx context.Context, r policy.FetchRequest) ([]byte, error) {
	q := url.Values{
		"after": {strconv.FormatUint(r.After, 10)}, "wait": {pollWait.String()}, "instance": {m.instance},
	}
	if r.Reason != "" {
		q.Set("refused", strconv.FormatUint(r.Refused, 10))
		q.Set("reason", r.Reason)
	}
	if keys := m.keys.names(); keys != "" {
		q.Set("keys", keys)
	}
	ctx, stop := m.warnings.report(ctx, q)
	defer stop()
	ctx, stop = m.reportTrust(ctx, q)
	defer stop()
	body, err := m.controlGet(ctx, wire.PathBundle, q, pollWait+controlTimeout, wire.MaxBundleBytes)
	if cause := context.Cause(ctx); err != nil && (errors.Is(cause, errWarnings) || errors.Is(cause, errTrust)) {
		return nil, policy.ErrFetchAgain // with what there is to report
	}
	if errors.Is(err, errKeysChanged) {
		if err := m.changeKeys(ctx); err != nil {
			return nil, err
		}
		return nil, policy.ErrFetchAgain
	}
	return body, err
}

// gossipAdvertise is the address that other members reach our gossip by.
func (m *Mesh) gossipAdvertise() netip.Addr {
	switch {
	case m.advertise.IsValid():
		return m.advertise
	case m.facing.IsValid():
		return m.facing
	}
	return localAddr()
}

// gossipBind listens on the advertised address when it is ours, else on all: behind NAT it is not.
func (m *Mesh) gossipBind() netip.AddrPort {
	a := m.gossipAdvertise()
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, i := range addrs {
			if n, ok := i.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == a {
					return netip.AddrPortFrom(a, 0)
				}
			}
		}
	}
	if a.Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
}
