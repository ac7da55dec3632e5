package gossip

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
)

// patience is how many times the SuspectTTL endpoints are kept when dropping them would leave a
// service with less than half of what it had: stale beats empty, since more likely it is we who
// are cut off.
const patience = 10

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
	// Endpoints are what it announces.
	Endpoints []discovery.Endpoint
}

// Members returns what is known of all members, this one included, by Instance.
func (m *Member) Members() []MemberInfo {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	all := []MemberInfo{{Instance: p.name, Addr: p.addr, Self: true, Endpoints: slices.Clone(p.own.Endpoints)}}
	for name, o := range p.members {
		all = append(all, MemberInfo{
			Instance: name, Addr: o.addr, Suspect: o.dead, Endpoints: slices.Clone(o.record.Endpoints),
		})
	}
	slices.SortFunc(all, func(a, b MemberInfo) int { return strings.Compare(a.Instance, b.Instance) })
	return all
}

// expire drops dead members whose time is over, and returns the services that they had. p.mu is
// held.
func (p *pool) expire(now time.Time) (changed []string, next time.Duration, ok bool) {
	living := map[netip.AddrPort]bool{p.addr: true}
	dead := false
	for _, m := range p.members {
		dead = dead || !m.dead.IsZero()
		if m.dead.IsZero() {
			living[m.addr] = true
		}
	}
	if !dead {
		return nil, 0, false
	}
	for name, m := range p.members {
		if m.dead.IsZero() {
			continue
		}
		left := m.dead.Add(p.ttl).Sub(now)
		if left <= 0 && p.needed(m) {
			left = m.dead.Add(patience * p.ttl).Sub(now)
		}
		// Who lives at the same address now is the same process, restarted.
		if left <= 0 || living[m.addr] {
			delete(p.members, name)
			changed = append(changed, services(m.record)...)
			continue
		}
		if !ok || left < next {
			next, ok = left, true
		}
	}
	return changed, next, ok
}

// needed reports whether more than half of the endpoints of one of m's services belong to the dead.
func (p *pool) needed(m *member) bool {
	for _, service := range services(m.record) {
		of := func(r record.Record) (n int) {
			for _, ep := range r.Endpoints {
				if ep.Service == service {
					n++
				}
			}
			return n
		}
		alive, dead := of(p.own), 0
		for _, o := range p.members {
			if o.dead.IsZero() {
				alive += of(o.record)
			} else {
				dead += of(o.record)
			}
		}
		if dead > alive {
			return true
		}
	}
	return false
}

// publish rebuilds the snapshots of the named services. p.mu is held.
func (p *pool) publish(changed ...string) {
	if len(changed) == 0 {
		return
	}
	now := make(map[string][]discovery.Endpoint, len(changed))
	for _, service := range changed {
		now[service] = nil
	}
	add := func(r record.Record, suspect bool) {
		for _, ep := range r.Endpoints {
			eps, wanted := now[ep.Service]
			if !wanted {
				continue
			}
			if ep.Suspect = suspect; suspect && slices.ContainsFunc(eps, func(o discovery.Endpoint) bool {
				return o.Port == ep.Port && o.Addr == ep.Addr && !o.Suspect
			}) {
				continue // someone who lives took over the address
			}
			now[ep.Service] = append(eps, ep)
		}
	}
	add(p.own, false)
	for _, suspect := range []bool{false, true} {
		for _, m := range p.members {
			if m.dead.IsZero() != suspect {
				add(m.record, suspect)
			}
		}
	}
	p.table.Update(now)
}

func services(r record.Record) []string {
	var all []string
	for _, ep := range r.Endpoints {
		if !slices.Contains(all, ep.Service) {
			all = append(all, ep.Service)
		}
	}
	return all
}

// NotifyJoin implements [memberlist.EventDelegate].
func (p *pool) NotifyJoin(n *memberlist.Node) { p.hear(n, false) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (p *pool) NotifyUpdate(n *memberlist.Node) { p.hear(n, false) }

// NotifyLeave implements [memberlist.EventDelegate]. It is called for the dead and for those who say
// that they leave; the latter have withdrawn their endpoints before.
func (p *pool) NotifyLeave(n *memberlist.Node) { p.hear(n, true) }

// hear keeps a copy, since memberlist goes on to change the node, and never blocks, since
// memberlist holds its lock.
func (p *pool) hear(n *memberlist.Node, gone bool) {
	if n.Name == p.name {
		return
	}
	ip, _ := netip.AddrFromSlice(n.Addr)
	p.newsMu.Lock()
	p.news[n.Name] = news{gone: gone, addr: netip.AddrPortFrom(ip.Unmap(), n.Port), meta: slices.Clone(n.Meta)}
	p.newsMu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// NodeMeta implements [memberlist.Delegate]. The limit is record.MaxSize.
func (p *pool) NodeMeta(int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.encoded
}

// NotifyMsg implements [memberlist.Delegate].
func (p *pool) NotifyMsg([]byte) {}

// GetBroadcasts implements [memberlist.Delegate].
func (p *pool) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements [memberlist.Delegate].
func (p *pool) LocalState(bool) []byte { return nil }

// MergeRemoteState implements [memberlist.Delegate].
func (p *pool) MergeRemoteState([]byte, bool) {}
