package control

import (
	"slices"
	"strings"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/internal/wire"
)

func joinMembers(pool []gossip.MemberInfo, asked []poll, version uint64) []admin.Member {
	members := []admin.Member{}
	at := make(map[string]int, len(pool))
	for _, g := range pool {
		m := admin.Member{Instance: g.Instance, State: "alive", Addr: g.Addr.String()}
		if !g.Suspect.IsZero() {
			m.State = "suspect"
		}
		if g.Self {
			m.Service, m.Rules = wire.ControlService, version
		}
		for _, e := range g.Endpoints {
			m.Ports = append(m.Ports, admin.Port{Service: e.Service, Port: e.Port, Addr: e.Addr.String(), State: e.State.String(), Zone: e.Zone})
			if m.Service == "" {
				m.Service = e.Service
			}
		}
		at[g.Instance] = len(members)
		members = append(members, m)
	}
	for _, q := range asked {
		i, known := at[q.instance]
		if !known || members[i].Service != "" && members[i].Service != q.service {
			// Not in the pool, or not who it says.
			i = len(members)
			state := "unseen"
			if q.observes {
				state = "observer"
			}
			members = append(members, admin.Member{Instance: q.instance, State: state, Addr: q.addr.String()})
		}
		m := &members[i]
		m.Service, m.Serial, m.Rules, m.Asked, m.Warnings = q.service, q.serial, q.version, q.at, q.warnings
		if q.reason != "" {
			m.Refused = &admin.Refusal{Version: q.refused, Reason: q.reason}
		}
	}
	slices.SortStableFunc(members, func(a, b admin.Member) int {
		return strings.Compare(a.Service+"\x00"+a.Instance, b.Service+"\x00"+b.Instance)
	})
	return members
}
