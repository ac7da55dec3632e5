package gossip

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// fanout is how many candidates are tried at one time.
	fanout = 3
	// maxPerSeed bounds the addresses that one seed's name stands for.
	maxPerSeed = 16
)

// hasCandidates reports whether there is anyone to join.
func (m *Member) hasCandidates() bool {
	return len(m.cfg.Seeds) > 0 || len(m.peers.all()) > 0
}

// stayJoined reaches for others until the member ends: quickly at first, then to heal what a
// partition split, since memberlist forgets whom it could not reach for long.
func (m *Member) stayJoined() {
	pause := 100 * time.Millisecond
	for {
		if m.reach(m.candidates()) {
			m.markJoined()
		}
		m.renew()
		m.save()
		wait := m.cfg.RejoinInterval
		if !m.isJoined() {
			wait = min(pause, wait)
			pause = 2 * wait
		}
		// Not longer than wait: a network that is whole again is found so within one RejoinInterval and the time that an
		// attempt under way takes to fail.
		if !m.rest(wait/2 + rand.N(wait/2+1)) { //nolint:gosec // jitter, not a secret
			return
		}
	}
}

// rest waits for d, false if the member ends before. Newcomers are remembered meanwhile: a process that is killed a moment after it started must
// find its way back though the seeds that it was given are gone.
func (m *Member) rest(d time.Duration) bool {
	over, newcomer := time.After(d), m.pool.newcomer
	var again <-chan time.Time
	for {
		select {
		case <-m.ctx.Done():
			return false
		case <-over:
			return true
		case <-newcomer:
			m.save()
			newcomer, again = nil, time.After(time.Second) // the file is written no more often
		case <-again:
			newcomer = m.pool.newcomer
		}
	}
}

func (m *Member) save() {
	if err := m.remember(); err != nil {
		m.cfg.Logger.Warn("gossip: peers not saved", "error", err)
	}
}

// staySynced compares with a random member what both have heard: some news is lost. Soon after the start it does so more often:
// those who start together through one seed learn of each other by that. In a small pool each news is sent to few, and the more often
// missed by one of them.
func (m *Member) staySynced() {
	select {
	case <-m.joined:
	case <-m.ctx.Done():
		return
	}
	const small = 50
	wait := m.cfg.SyncInterval / 30
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(wait/2 + rand.N(wait)): //nolint:gosec // jitter, not a secret
		}
		wait = min(2*wait, m.cfg.SyncInterval)
		if len(m.pool.living()) < small {
			wait = min(wait, m.cfg.SyncInterval/3)
		}
		for _, addr := range m.someMember() {
			if err := m.wire.Sync(m.ctx, addr.String()); err != nil && m.ctx.Err() == nil {
				m.cfg.Logger.Debug("gossip: not in sync", "addr", addr, "error", err)
			}
		}
	}
}

// renew signs what we announce again when our certificate was renewed, and asks for those of others that have expired.
func (m *Member) renew() {
	if err := m.announce(m.ctx, m.pool.renew); err != nil && m.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
		m.cfg.Logger.Warn("gossip: what this process announces can't be signed anew", "error", err)
	}
	m.pool.recheck(time.Now())
}

func (m *Member) markJoined() {
	if !m.isJoined() {
		close(m.joined) // only stayJoined does
	}
}

func (m *Member) isJoined() bool {
	select {
	case <-m.joined:
		return true
	default:
		return false
	}
}

// candidates are seeds and remembered peers that are not members now, some of each.
func (m *Member) candidates() []netip.AddrPort {
	living := map[netip.AddrPort]bool{m.addr: true}
	for _, addr := range m.pool.living() {
		living[addr] = true
	}
	if len(living) > 1 {
		m.markJoined() // someone else came to us
	}
	pick := func(from []netip.AddrPort) []netip.AddrPort {
		from = slices.DeleteFunc(slices.Clone(from), func(a netip.AddrPort) bool { return living[a] })
		rand.Shuffle(len(from), func(i, j int) { //nolint:gosec // any order will do
			from[i], from[j] = from[j], from[i]
		})
		from = from[:min(len(from), fanout)]
		for _, a := range from {
			living[a] = true // once is enough
		}
		return from
	}
	return append(pick(m.resolveSeeds()), pick(m.peers.all())...)
}

func (m *Member) someMember() []netip.AddrPort {
	living := m.pool.living()
	if len(living) == 0 {
		return nil
	}
	return []netip.AddrPort{living[rand.IntN(len(living))]} //nolint:gosec // any will do
}

// reach exchanges state with each address, and reports whether one did.
func (m *Member) reach(addrs []netip.AddrPort) bool {
	var wg sync.WaitGroup
	reached := make([]bool, len(addrs))
	for i, addr := range addrs {
		wg.Go(func() {
			err := m.wire.Exchange(m.ctx, addr.String())
			reached[i] = err == nil
			if err != nil && m.ctx.Err() == nil {
				m.cfg.Logger.Debug("gossip: can't reach", "addr", addr, "error", err)
			}
		})
	}
	wg.Wait()
	m.pool.apply(time.Now()) // so that Join returns with what was learned
	return slices.Contains(reached, true)
}

// resolveSeeds looks names up, with Go's resolver and in bounded time.
func (m *Member) resolveSeeds() []netip.AddrPort {
	ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
	defer cancel()
	var all []netip.AddrPort
	for _, seed := range m.cfg.Seeds {
		found, err := resolve(ctx, seed)
		if err != nil {
			m.cfg.Logger.Debug("gossip: seed", "seed", seed, "error", err)
		}
		all = append(all, found[:min(len(found), maxPerSeed)]...)
	}
	return all
}

func resolve(ctx context.Context, seed string) ([]netip.AddrPort, error) {
	if addr, err := netip.ParseAddrPort(seed); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())}, nil
	}
	host, service, err := net.SplitHostPort(seed)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, err
	}
	ips, err := new(net.Resolver).LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var all []netip.AddrPort
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return all, nil
}
