package transport

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"

	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
)

var errTooMany = errors.New("gossip: too many streams at a time")

// sender is the peer's address, the zero value when it has none.
func sender(a net.Addr) netip.AddrPort {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// refuse counts what somebody sent, and logs it unless that was done a moment ago.
func (t *Transport) refuse(k tally.Kind, from netip.AddrPort, err error) {
	if t.ctx.Err() != nil {
		return // it may be us who ended it
	}
	if n := t.cfg.Refused.Add(k); n > 0 {
		t.cfg.Logger.Warn("gossip: refused what was sent", "from", from, "error", err, "refused", n)
	}
}

// refuseStream counts a stream that came to nothing. What the guard found is counted there, and who hangs up has done nothing
// wrong.
func (t *Transport) refuseStream(from netip.AddrPort, err error) {
	switch {
	case errors.Is(err, ErrSealed):
		t.refuse(tally.Sealed, from, err)
	case errors.Is(err, errTooLong):
		t.refuse(tally.Message, from, err)
	case errors.Is(err, errGuard), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		t.cfg.Logger.Debug("gossip: stream ended", "from", from, "error", err)
	default: // no certificate of a member, or nothing in time
		t.refuse(tally.Stream, from, err)
	}
}

// refuseReply counts what answered a request of ours. Who does not answer in time may be gone.
func (t *Transport) refuseReply(from netip.AddrPort, err error) {
	if errors.Is(err, ErrSealed) || errors.Is(err, errTooLong) {
		t.refuseStream(from, err)
	}
}
