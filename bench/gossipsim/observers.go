package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	observerCount = 20
	followed      = 3 // services of each observer
	// mostObserved bounds the pool that is observed, which has certificates.
	mostObserved = 50
	observing    = "observers"
)

// observers measures what it costs to observe a pool, of members that have certificates.
func (o order) observers(ctx context.Context, r *result) (err error) {
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString("example.test"))
	if err != nil {
		return err
	}
	credential := func(service string) (*identity.Credential, error) {
		svid, err := ca.SVID(service)
		if err != nil {
			return nil, err
		}
		return identity.NewCredential(identity.Static(svid, ca.Bundle())), nil
	}
	n := newNetwork(o.latency)
	p, err := burst(ctx, n, min(r.N, mostObserved), func(c *gossip.Config, service string) (err error) {
		c.Identity, err = credential(service)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := settle(p); err != nil {
		return err
	}
	before := heap()
	var all []*gossip.Observer
	var hosts []*host
	defer func() {
		for _, obs := range all {
			err = errors.Join(err, obs.Close())
		}
	}()
	client, err := credential("client")
	if err != nil {
		return err
	}
	for i := range observerCount {
		h := n.host(addressOf(100_000 + i))
		obs, err := gossip.Observe(ctx, gossip.Config{
			Identity: client, Network: h, Seeds: []string{netip.AddrPortFrom(addressOf(0), gossipPort).String(), netip.AddrPortFrom(addressOf(1), gossipPort).String()},
		})
		if err != nil {
			return err
		}
		all, hosts = append(all, obs), append(hosts, h)
		for s := range min(followed, len(p.services)) {
			obs.Await(ctx, p.services[s])
		}
	}
	p.pause(30 * time.Second)
	r.Figures["observer_kib"] = float64(heap()-before) / observerCount / 1024
	carried := func() (bytes int64) {
		for _, h := range hosts {
			bytes += h.streamed.Load() + h.received.Load()
		}
		return bytes
	}
	idle := carried()
	p.pause(time.Minute)
	r.Figures["observer_bytes"] = float64(carried()-idle) / observerCount / 60

	version, err := p.announce(ctx, 0)
	if err != nil {
		return err
	}
	r.shares("observer_update", spread(p, observerCount, time.Minute, 10*time.Millisecond, func(i int) bool {
		for _, ep := range all[i].Lookup(p.services[0]).Endpoints {
			if ep.Addr == p.members[0].addr && ep.Weight >= version {
				return true
			}
		}
		return false
	}))
	if r.Figures["observer_update_100"] < 0 {
		return fmt.Errorf("an observer of %d members does not see an update within a minute", len(p.members))
	}
	return nil
}
