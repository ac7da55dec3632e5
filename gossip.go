package mesh

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// joinGossip makes this process a member of the gossip pool, or an observer of a large one.
func (m *Mesh) joinGossip(ctx context.Context, b *Bootstrap) error {
	dir, err := m.stateDir("gossip")
	if err != nil {
		return err
	}
	j, told, err := m.fetchJoin(ctx, dir, m.cfg.Observe != nil)
	if err != nil {
		return err
	}
	joined := make(chan struct{})
	g, err := gossip.Participate(ctx, gossip.Participation{
		Config: gossip.Config{
			BindAddr: m.gossipBind(), Advertise: m.gossipAdvertise(), Keys: j.GossipKeys, Seeds: j.Seeds,
			Identity: poolIdentity{m.credential, m.rules}, Label: b.TrustDomain, Zone: m.cfg.Zone, Dir: dir, Logger: m.log,
			ProbeInterval: j.ProbeInterval,
		},
		Observe:       m.cfg.Observe,
		ObserveBeyond: j.ObserveBeyond,
		Enter: func(ctx context.Context) ([][]byte, []string, error) {
			<-joined
			j, _, err := m.fetchJoin(ctx, dir, false)
			if err != nil {
				return nil, nil, err
			}
			return j.GossipKeys, j.Seeds, nil
		},
		Changed: func(observes bool) {
			if observes {
				m.forgetKeys(dir)
			}
		},
	})
	if err != nil {
		return err
	}
	defer close(joined)
	m.observeBeyond, m.probeInterval = j.ObserveBeyond, j.ProbeInterval
	m.closers = append(m.closers, func(ctx context.Context) error {
		err := g.Leave(ctx)
		if err != nil && errors.Is(context.Cause(ctx), errBriefly) {
			m.log.Info("gossip: closed before others had heard that this process left")
			err = nil
		}
		return errors.Join(err, g.Close())
	})
	m.discovery, m.gossip, m.await = g, g, g.Await
	if told != nil && !slices.EqualFunc(told, j.GossipKeys, slices.Equal) {
		m.spawn(func() { m.tryKeys(g, j.GossipKeys, told) })
	}
	return nil
}

// instance is this process's name in the gossip pool, "" outside of one. Another one comes with every change between member and observer.
func (m *Mesh) instance() string {
	if m.gossip == nil {
		return ""
	}
	return m.gossip.Instance()
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
