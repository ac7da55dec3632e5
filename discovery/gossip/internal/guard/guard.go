// Package guard keeps from memberlist what no honest member would have sent. Whoever has the
// pool's key, which is every process of the mesh, could otherwise crash all others with one packet,
// fill their memory, or remove members for good.
//
// Messages are decoded here within bounds, checked, and encoded anew. What a guard can't stop
// is a plausible lie about another member; the member itself refutes that.
package guard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
)

// MaxMembers bounds the pool: a member that would be one more is not heard.
const MaxMembers = 16384

// Config says who this member is; all fields are required.
type Config struct {
	Name string
	Addr netip.AddrPort
	// Versions is what memberlist announces as its protocol versions. Members with others are
	// not heard, since memberlist would refuse to talk to anyone because of them.
	Versions []byte
	Logger   *slog.Logger
	// Refused counts what is refused; nil does not.
	Refused *tally.Tally
}

// A Guard checks what arrives. It is safe for concurrent use; New makes one.
type Guard struct {
	cfg Config

	pins *pins
}

// New returns a guard.
func New(cfg Config) *Guard {
	return &Guard{cfg: cfg, pins: newPins()}
}

// Packet returns the messages of a packet that memberlist may handle, each on its own.
func (g *Guard) Packet(b []byte, from netip.AddrPort) [][]byte {
	parts, err := split(withoutCRC(b))
	if err != nil {
		g.refuse(err, from)
	}
	var good [][]byte
	for _, part := range parts {
		m, err := g.message(part, from)
		if err != nil {
			g.refuse(err, from)
			continue
		}
		good = append(good, m)
	}
	return good
}

// refuse counts what was refused, and logs it unless that was done a moment ago. Messages that are out of date are neither.
func (g *Guard) refuse(err error, from netip.AddrPort) {
	if errors.Is(err, errNotMe) || errors.Is(err, errStranger) {
		return
	}
	if n := g.cfg.Refused.Add(tally.Message); n > 0 {
		g.cfg.Logger.Warn("gossip: message refused", "from", from, "error", err, "refused", n)
	}
}

// withoutCRC returns what follows the checksum: the encryption has verified more than that.
func withoutCRC(b []byte) []byte {
	const size = 5
	if len(b) > size && b[0] == hasCRC {
		return b[size:]
	}
	return b
}

// split takes a compound message apart.
func split(b []byte) ([][]byte, error) {
	if len(b) == 0 || b[0] != compound {
		return [][]byte{b}, nil
	}
	if len(b) < 2 || len(b) < 2+2*int(b[1]) {
		return nil, errMalformed
	}
	lengths, rest := b[2:2+2*int(b[1])], b[2+2*int(b[1]):]
	var parts [][]byte
	for ; len(lengths) > 0; lengths = lengths[2:] {
		n := int(binary.BigEndian.Uint16(lengths))
		if n > len(rest) {
			return nil, errMalformed
		}
		parts = append(parts, rest[:n])
		rest = rest[n:]
	}
	return parts, nil
}

var (
	errMalformed = errors.New("malformed message")
	// Honest members send these for a moment: to who was at our address before us, and about whom we have not heard of yet.
	errNotMe    = errors.New("ping for another member")
	errStranger = errors.New("asks to ping a stranger")
)

// message checks one message of a packet and encodes it anew.
func (g *Guard) message(b []byte, from netip.AddrPort) ([]byte, error) {
	if len(b) == 0 {
		return nil, errMalformed
	}
	kind := b[0]
	switch kind {
	case ping, indirectPing, ackResp, nackResp, suspect, alive, dead:
	default: // compressed, encrypted, labelled, nested or the application's: we send none of these
		return nil, fmt.Errorf("message of type %d", kind)
	}
	r := reader{b: b[1:]}
	f, ok := read(&r)
	if !ok || len(r.b) > 0 {
		return nil, errMalformed
	}
	if err := g.check(kind, f, from); err != nil {
		return nil, err
	}
	return write(kind, f), nil
}

func (g *Guard) check(kind byte, f fields, from netip.AddrPort) error {
	switch kind {
	case ping:
		if f.Node != g.cfg.Name {
			return errNotMe
		}
		return g.checkSource(f, from)
	case indirectPing:
		if f.Node == "" || !g.at(f.Node, f.Addr) {
			return errStranger
		}
		return g.checkSource(f, from)
	case ackResp:
		if len(f.Payload) > 0 {
			return errors.New("acknowledgement with a payload")
		}
	case suspect, dead:
		return checkAccusation(f)
	case alive:
		return g.checkAlive(f)
	}
	return nil
}

// checkSource makes sure that the answer goes to who asked, or at least to a member: else
// anyone could be flooded in our name.
func (g *Guard) checkSource(f fields, from netip.AddrPort) error {
	if f.Source.IsValid() && (f.Source == from || g.at(f.SourceNode, f.Source)) {
		return nil
	}
	return fmt.Errorf("wants the answer sent to %v", f.Source)
}

func checkAccusation(f fields) error {
	if f.Node == "" || f.From == "" {
		return errMalformed
	}
	if uint64(f.Incarnation) > limit(time.Now()) {
		return fmt.Errorf("incarnation %d of %s is out of reach", f.Incarnation, f.Node)
	}
	return nil
}

// checkAlive is for alive messages and for the states of a full exchange.
func (g *Guard) checkAlive(f fields) error {
	switch {
	case f.Node == "" || !f.Addr.IsValid():
		return errMalformed
	case len(f.Meta) > maxMeta:
		return fmt.Errorf("record of %d bytes", len(f.Meta))
	case !bytes.Equal(f.Vsn, g.cfg.Versions):
		return fmt.Errorf("%s speaks versions %v", f.Node, f.Vsn)
	case uint64(f.Incarnation) > limit(time.Now())+slack:
		return fmt.Errorf("incarnation %d of %s is out of reach", f.Incarnation, f.Node)
	}
	return g.pin(f.Node, f.Addr)
}

// slack is how far above the limit a member's own word may be, and the least limit.
const slack = 1 << 16

// limit returns the highest incarnation that others may say of a member. An incarnation that is
// said to be 2³²−1 could not be refuted ever. Every member's own starts at 1 and grows
// with each change or refutation; the limit grows by 4 a second, so that there is always room for a
// refutation, until the year 2060.
func limit(now time.Time) uint64 {
	const epoch, perSecond = 1767225600, 4 // 2026-01-01
	return slack + uint64(max(0, now.Unix()-epoch))*perSecond
}

// at reports whether a member is known to be at an address.
func (g *Guard) at(name string, addr netip.AddrPort) bool {
	if name == g.cfg.Name {
		return addr == g.cfg.Addr
	}
	return g.pins.at(name, addr)
}

// pin binds a new name to its address, or returns an error if it has another one or there are too
// many.
func (g *Guard) pin(name string, addr netip.AddrPort) error {
	if name == g.cfg.Name {
		if addr != g.cfg.Addr {
			return errMoved(name, addr)
		}
		return nil
	}
	return g.pins.pin(name, addr, time.Now())
}
