package mesh

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// headStart is the time that an address has before the next one of the same endpoint is tried too: RFC 8305's Connection
	// Attempt Delay.
	headStart = 250 * time.Millisecond
	// pathMemory is how long the address that answered last is tried first.
	pathMemory = 10 * time.Minute
)

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

// connect opens a connection to the first path that answers, and tells which one that is. Each has a head start
// before the next, unless it fails. The error is that of the one that failed last.
func connect(ctx context.Context, n Network, paths []netip.AddrPort) (c net.Conn, which int, err error) {
	if len(paths) == 1 {
		c, err = n.DialContext(ctx, "tcp", paths[0].String())
		return c, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	type outcome struct {
		c     net.Conn
		which int
		err   error
	}
	outcomes := make(chan outcome, len(paths))
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
		close(outcomes)
		for o := range outcomes {
			if o.err == nil {
				_ = o.c.Close() // it comes too late
			}
		}
	}()
	started, next := 0, time.NewTimer(0)
	defer next.Stop()
	for failed := 0; failed < len(paths); {
		select {
		case <-next.C:
			if i := started; i < len(paths) {
				started++
				wg.Go(func() {
					c, err := n.DialContext(ctx, "tcp", paths[i].String())
					outcomes <- outcome{c, i, err}
				})
				next.Reset(headStart)
			}
		case o := <-outcomes:
			if o.err == nil {
				return o.c, o.which, nil
			}
			failed, err = failed+1, o.err
			next.Reset(0)
		}
	}
	return nil, 0, err
}
