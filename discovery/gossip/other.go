package gossip

import (
	"net/netip"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
)

// member is another process. There are thousands: it is kept small, and its record as it came.
type member struct {
	name     string
	meta     []byte // its record; shared with memberlist, which does not change it
	at       place
	dead     bool    // it is in pool.dead
	verified bool    // wanted.proof is there, and its key has signed meta
	lies     bool    // it says what its certificate does not allow, or another speaks in its name
	bundle   uint64  // of the rules that it says it has
	wanted   *wanted // see want
}

// A place is an address, in 18 bytes instead of 32.
type place struct {
	ip   [16]byte
	port uint16
}

func placeOf(a netip.AddrPort) place { return place{a.Addr().As16(), a.Port()} }

func (p place) addr() netip.AddrPort {
	ip, _ := netip.AddrFromSlice(p.ip[:])
	return netip.AddrPortFrom(ip.Unmap(), p.port)
}

// wanted is what is known of a member whose endpoints were needed.
type wanted struct {
	eps   []discovery.Endpoint // of meta, nil until they were needed
	asked int64                // for its certificate, in Unix milliseconds
	proof *proof               // nil until it was needed
	next  []byte               // a newer record that another certificate's key has signed
}

// want returns what is known of m if its endpoints are needed.
func (m *member) want() *wanted {
	if m.wanted == nil {
		m.wanted = new(wanted)
	}
	return m.wanted
}

// record reads what m has announced, nothing if it can't be read.
func (m *member) record() record.Record {
	r, _ := record.Decode(m.meta, m.name, m.at.addr().Addr())
	return r
}

// services returns what m announces endpoints of.
func (m *member) services() []string { return services(m.record()) }
