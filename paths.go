package mesh

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// pathMemory is how long the address that answered last is tried first.
const pathMemory = 10 * time.Minute

// A path is the address by which an endpoint answered.
type path struct {
	addr  netip.AddrPort
	until time.Time
}

// paths returns where to reach the endpoint at addr: addr and its others in turn by family, as RFC 8305 has it, the one that answered
// last before all.
func (s *endpointSet) paths(addr netip.AddrPort) []netip.AddrPort {
	all := append([]netip.AddrPort{addr}, s.current().also[addr]...)
	if len(all) == 1 {
		return all
	}
	for i := 1; i < len(all); i++ {
		for j := i; j < len(all); j++ {
			if all[j].Addr().Is4() != all[i-1].Addr().Is4() {
				toFront(all[i:], j-i)
				break
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.answered[addr]; time.Now().Before(p.until) {
		for i, a := range all {
			if a == p.addr {
				toFront(all, i)
			}
		}
	}
	return all
}

// toFront moves the element i to the front; the others stay in order.
func toFront(all []netip.AddrPort, i int) {
	first := all[i]
	copy(all[1:i+1], all[:i])
	all[0] = first
}

// prefer has one path of the endpoint at addr be the first to try.
func (s *endpointSet) prefer(addr, by netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered == nil {
		s.answered = make(map[netip.AddrPort]path)
	}
	s.answered[addr] = path{by, time.Now().Add(pathMemory)}
}

// byPaths connects by the first path that leads to whom we want, and tells which one that is. Each has a head start before the next,
// unless it fails. The error is that of the one that failed last, or one that another path would not change.
func byPaths(ctx context.Context, paths []netip.AddrPort, connect func(ctx context.Context, to netip.AddrPort, connected func()) (net.Conn, error)) (net.Conn, int, error) {
	if len(paths) == 1 {
		c, err := connect(ctx, paths[0], func() {})
		return c, 0, err
	}
	r := newRace(ctx, len(paths))
	defer r.end(func(int) {})
	var last error
	for started := 0; started < len(paths) || r.running > 0; {
		more := started < len(paths)
		if more && r.ready() {
			to := paths[started]
			r.start(started, func(ctx context.Context, connected func()) (net.Conn, error) { return connect(ctx, to, connected) })
			started++
			r.due = time.Now().Add(headStart)
			continue
		}
		e, ok := r.next(more)
		switch {
		case !ok:
		case e.connected && e.which == started-1:
			r.due = r.due.Add(silence - headStart)
		case e.connected:
		case e.err == nil, !anotherMay(e.err):
			return e.c, e.which, e.err
		default:
			last, r.due = e.err, time.Time{}
		}
	}
	return nil, 0, last
}

// anotherMay reports whether what made an attempt fail leaves it open that the right process answers by another path.
func anotherMay(err error) bool {
	_, denied := errors.AsType[*DeniedError](err)
	return !denied && !speaksOther(err) && !errors.Is(err, ErrClosed)
}
