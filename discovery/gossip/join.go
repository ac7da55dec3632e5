package gossip

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/intramesh/mesh/internal/pace"
)

// hasCandidates reports whether there is anyone to join.
func (m *Member) hasCandidates() bool {
	return len(m.cfg.Seeds) > 0 || len(m.peers.all()) > 0
}

// stayJoined reaches for others until the member ends: quickly at first, then to heal what a
// partition split, since memberlist forgets whom it could not reach for long.
func (m *Member) stayJoined() {
	pause := pace.FirstRejoin
	var s search
	for {
		if m.seek(&s) {
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
// those who start together through one seed learn of each other by that, and so do those whom a partition had split for so long that memberlist
// has forgotten them. In a small pool each news is sent to few, and the more often missed by one of them.
func (m *Member) staySynced() {
	select {
	case <-m.joined:
	case <-m.ctx.Done():
		return
	}
	wait := m.cfg.SyncInterval / pace.FirstSync
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.pool.stirred:
			wait = m.cfg.SyncInterval / pace.FirstSync
			continue
		case <-time.After(wait/2 + rand.N(wait)): //nolint:gosec // jitter, not a secret
		}
		m.pool.forgetArrivals()
		wait = min(2*wait, m.cfg.SyncInterval)
		if len(m.pool.living()) < pace.SmallPool {
			wait = min(wait, m.cfg.SyncInterval/pace.SmallSync)
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

// seek tries some of the seeds and remembered peers that are not members now, and reports whether one was reached.
func (m *Member) seek(s *search) bool {
	known := map[netip.AddrPort]bool{m.addr: true}
	for _, addr := range m.pool.living() {
		known[addr] = true
	}
	others := len(known) - 1
	if others > 0 {
		m.markJoined() // someone else came to us
	}
	seeds := s.lookUp(m.ctx, &m.cfg, others)
	lists := make([][]ranked, len(seeds))
	for i, f := range seeds {
		if lists[i] = f.addrs; f.err != nil {
			m.cfg.Logger.Debug("gossip: seed", "seed", f.seed, "error", f.err)
		}
	}
	addrs := append(s.pick(lists, known), s.pick([][]ranked{m.peers.anyOrder()}, known)...)
	errs := m.reach(addrs)
	s.note(addrs, errs)
	reached := slices.Contains(errs, nil)
	failed := s.errors(seeds)
	switch alone := !reached && len(m.pool.living()) == 0; {
	case m.ctx.Err() != nil:
	case !alone:
		m.alone.over(time.Now(), m.cfg.Logger)
	case len(addrs) > 0 || slices.ContainsFunc(failed, func(e SeedError) bool { return e.Err != nil }):
		m.alone.failed(time.Now(), failed, m.cfg.Logger)
	}
	return reached
}

func (m *Member) someMember() []netip.AddrPort {
	living := m.pool.living()
	if len(living) == 0 {
		return nil
	}
	return []netip.AddrPort{living[rand.IntN(len(living))]} //nolint:gosec // any will do
}

// reach exchanges state with each address.
func (m *Member) reach(addrs []netip.AddrPort) []error {
	var wg sync.WaitGroup
	errs := make([]error, len(addrs))
	for i, addr := range addrs {
		wg.Go(func() {
			if errs[i] = m.wire.Exchange(m.ctx, addr.String()); errs[i] != nil && m.ctx.Err() == nil {
				m.cfg.Logger.Debug("gossip: can't reach", "addr", addr, "error", errs[i])
			}
		})
	}
	wg.Wait()
	m.pool.apply(time.Now()) // so that Join returns with what was learned
	return errs
}
