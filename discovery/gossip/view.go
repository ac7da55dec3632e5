package gossip

import (
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
	"github.com/intramesh/mesh/internal/pace"
)

// A MemberInfo is what is known of a member.
type MemberInfo struct {
	// Instance is the member's name.
	Instance string
	// Addr is where its gossip is reached.
	Addr netip.AddrPort
	// Self marks the member that was asked.
	Self bool
	// Suspect is since when the member is held dead. It is zero for one that lives.
	Suspect time.Time
	// Endpoints are what it announces, believed or not.
	Endpoints []discovery.Endpoint
	// Verified is set when its certificate was seen to allow what it announces. That is only looked at when the service
	// is looked up, and never in a pool without identities.
	Verified bool
	// Bundle is the version of the rules that it says it has in force, 0 if it says nothing.
	Bundle uint64
}

// Members returns what is known of all members, this one included, by Instance.
func (m *Member) Members() []MemberInfo {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	all := append(p.infos(), MemberInfo{
		Instance: p.name, Addr: p.addr, Self: true, Endpoints: slices.Clone(p.own.Endpoints), Verified: p.identity != nil, Bundle: p.own.Bundle,
	})
	sort.SliceStable(all, func(i, j int) bool { return all[i].Instance < all[j].Instance })
	return all
}

// infos tells of the other members. p.mu is held.
func (p *pool) infos() []MemberInfo {
	all := make([]MemberInfo, 0, len(p.members)+1)
	for _, m := range p.members {
		r := m.record()
		all = append(all, MemberInfo{Instance: m.name, Addr: m.at.addr(), Suspect: p.dead[m], Endpoints: r.Endpoints, Verified: m.verified, Bundle: r.Bundle})
	}
	return all
}

// living returns the gossip addresses of the others.
func (p *pool) living() []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []netip.AddrPort
	for _, m := range p.members {
		if !m.dead {
			all = append(all, m.at.addr())
		}
	}
	return all
}

// lookup returns the snapshot of a service. The first lookup makes it, and has those asked for their certificates who
// announce it.
func (p *pool) lookup(service string) discovery.Snapshot {
	if s := p.table.Lookup(service); len(s.Endpoints) > 0 {
		return s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.observer != nil {
		p.observer.follow(service)
	}
	p.want(service)
	p.publish()
	return p.table.Lookup(service) // what appears after this wakes whoever waits
}

// want has a snapshot made of a service that exists, and those asked for their certificates who announce it. p.mu is held.
func (p *pool) want(service string) {
	if p.wanted[service] || !p.exists(service) {
		return
	}
	service = strings.Clone(service)
	p.wanted[service], p.dirty[service] = true, true
	for _, m := range p.services[service] {
		if p.identity != nil && !m.verified && !m.lies {
			p.schedule(m, time.Now(), 0)
		}
	}
}

// exists reports whether anybody announces the service.
func (p *pool) exists(service string) bool {
	return len(p.services[service]) > 0 || p.announces(service)
}

// announces reports whether this process does.
func (p *pool) announces(service string) bool {
	return slices.ContainsFunc(p.own.Endpoints, func(ep discovery.Endpoint) bool { return ep.Service == service })
}

// expire forgets dead members whose time is over. p.mu is held.
func (p *pool) expire(now time.Time) (next time.Duration, ok bool) {
	if p.observer != nil && p.observer.blind() {
		return 0, false // there is nobody to ask
	}
	for m, since := range p.dead {
		if p.observer != nil && p.observer.disputes(m) {
			continue
		}
		left := since.Add(p.ttl).Sub(now)
		if left <= 0 && p.needed(m) {
			left = since.Add(pace.Patience * p.ttl).Sub(now)
		}
		if left <= 0 {
			p.forget(m)
			continue
		}
		if !ok || left < next {
			next, ok = left, true
		}
	}
	return next, ok
}

// needed reports whether more than half of those who announce one of m's services are dead.
func (p *pool) needed(m *member) bool {
	for _, service := range m.services() {
		alive, dead := 0, 0
		if p.announces(service) {
			alive = 1
		}
		for _, o := range p.services[service] {
			switch {
			case o.lies:
			case !o.dead:
				alive++
			default:
				dead++
			}
		}
		if dead > alive {
			return true
		}
	}
	return false
}

// publish rebuilds the snapshots that are out of date. p.mu is held.
func (p *pool) publish() {
	now := make(map[string][]discovery.Endpoint)
	for service := range p.dirty {
		if !p.wanted[service] {
			continue
		}
		eps := p.endpoints(service)
		if now[service] = eps; !p.exists(service) {
			delete(p.wanted, service)
		}
	}
	clear(p.dirty)
	if len(now) > 0 {
		p.table.Update(now)
	}
	if p.appeared {
		p.appeared = false
		p.table.Appeared()
	}
}

// endpoints returns those of a service, of members that may be believed. Those of the dead, and of members whose word is
// not verified, are suspect.
func (p *pool) endpoints(service string) []discovery.Endpoint {
	type slot struct {
		port string
		addr netip.AddrPort
	}
	var eps []discovery.Endpoint
	taken := make(map[slot]bool)
	for _, ep := range p.own.Endpoints {
		if ep.Service == service {
			eps = append(eps, ep)
			taken[slot{ep.Port, ep.Addr}] = true
		}
	}
	for _, wantSuspect := range []bool{false, true} {
		for _, m := range p.services[service] {
			suspect := m.dead || p.identity != nil && !m.verified
			if m.lies || suspect != wantSuspect {
				continue
			}
			known := m.want()
			if known.eps == nil {
				known.eps = m.record().Endpoints
			}
			for _, ep := range known.eps {
				at := slot{ep.Port, ep.Addr}
				if ep.Service != service || suspect && taken[at] {
					continue // someone who lives took over the address
				}
				ep.Suspect = suspect
				eps = append(eps, ep)
				taken[at] = taken[at] || !suspect
			}
		}
	}
	return eps
}

// services returns what a record has endpoints of.
//
//go:noinline // it would be in five places of every program
func services(r record.Record) []string {
	var all []string
	for _, ep := range r.Endpoints {
		if !slices.Contains(all, ep.Service) {
			all = append(all, ep.Service)
		}
	}
	return all
}
