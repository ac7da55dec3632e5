package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/intramesh/mesh/internal/pace"
)

const (
	// maxPerSeed bounds the addresses that one seed's name stands for, and the targets of one that are looked up.
	maxPerSeed = 16
	// lookupTimeout bounds looking up all seeds for one attempt.
	lookupTimeout = 5 * time.Second
	// seedTime is how long a member among others believes to know where its seeds are, if it has not lost half of the others
	// since: all members of a large pool ask the same name servers.
	seedTime = 5 * time.Minute
)

// CheckSeed returns an error unless seed is what [Config.Seeds] can hold. It asks nobody.
func CheckSeed(seed string) error {
	if isSRV(seed) {
		return nil
	}
	_, port, err := net.SplitHostPort(seed)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("seed %.80q: want host:port or _service._proto.name: %w", seed, err)
	}
	return nil
}

// isSRV reports whether a seed names SRV records: no host begins with an underscore, and those have no port.
func isSRV(seed string) bool {
	return strings.HasPrefix(seed, "_") && !strings.Contains(seed, ":")
}

// A found is a seed and where it is now, or why that is not known.
type found struct {
	seed  string
	addrs []ranked
	err   error
}

// A ranked is an address to try before those of a higher rank, which is the priority of an SRV record.
type ranked struct {
	addr netip.AddrPort
	rank uint16
}

// lookUp finds out where seeds are, all at one time.
func lookUp(ctx context.Context, r *net.Resolver, seeds []string) []found {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	all := make([]found, len(seeds))
	var wg sync.WaitGroup
	for i, seed := range seeds {
		wg.Go(func() {
			addrs, err := lookUpOne(ctx, r, seed)
			all[i] = found{seed, addrs[:min(len(addrs), maxPerSeed)], err}
		})
	}
	wg.Wait()
	return all
}

func lookUpOne(ctx context.Context, r *net.Resolver, seed string) ([]ranked, error) {
	if isSRV(seed) {
		return lookUpSRV(ctx, r, seed)
	}
	host, service, err := net.SplitHostPort(seed)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, err
	}
	addrs, err := lookUpHost(ctx, r, host, uint16(port), 0)
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] }) //nolint:gosec // any order will do
	return addrs, err
}

func lookUpHost(ctx context.Context, r *net.Resolver, host string, port, rank uint16) ([]ranked, error) {
	ips, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]ranked, len(ips))
	for i, ip := range ips {
		addrs[i] = ranked{netip.AddrPortFrom(ip.Unmap(), port), rank}
	}
	return addrs, nil
}

var errNoTarget = errors.New("the SRV record names no host")

// lookUpSRV returns the addresses in the order of RFC 2782: by priority, and among those of one priority by lot, which the
// weights decide.
func lookUpSRV(ctx context.Context, r *net.Resolver, name string) ([]ranked, error) {
	_, targets, err := r.LookupSRV(ctx, "", "", name)
	if len(targets) > 0 {
		err = nil // some have an invalid name
	}
	targets = targets[:min(len(targets), maxPerSeed)]
	if len(targets) == 0 {
		return nil, cmp.Or(err, errNoTarget)
	}
	hosts, errs := make([][]ranked, len(targets)), make([]error, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		if t.Target == "." || t.Port == 0 { // "there is none"
			errs[i] = errNoTarget
			continue
		}
		wg.Go(func() { hosts[i], errs[i] = lookUpHost(ctx, r, t.Target, t.Port, t.Priority) })
	}
	wg.Wait()
	return slices.Concat(hosts...), errors.Join(errs...)
}

// A search remembers who could not be reached. It is for one goroutine.
type search struct {
	failed map[netip.AddrPort]failure
	seeds  []found
	until  time.Time     // when seeds are looked up again
	pause  time.Duration // about how long that is after the last time
	others int           // how many there were at most since then
}

// lookUp returns where the seeds are, as far as that was ever known. One who is alone asks anew; among others that is asked ever
// less often.
func (s *search) lookUp(ctx context.Context, cfg *Config, others int) []found {
	lost := others == 0 || 2*others <= s.others
	s.others = max(s.others, others)
	now := time.Now()
	if !lost && now.Before(s.until) {
		return s.seeds
	}
	if s.pause = min(2*s.pause, seedTime); lost {
		s.pause = cfg.RejoinInterval
	}
	s.until, s.others = now.Add(s.pause/2+rand.N(s.pause/2+1)), others //nolint:gosec // jitter, not a secret
	seeds := lookUp(ctx, cfg.Resolver, cfg.Seeds)
	for i, old := range s.seeds {
		if len(seeds[i].addrs) == 0 {
			seeds[i].addrs = old.addrs
		}
	}
	s.seeds = seeds
	return seeds
}

// maxFailures bounds what a search remembers.
const maxFailures = 4096

// A failure is how often an address could not be reached in a row.
type failure struct {
	times int
	err   error
}

// best are those of one seed's addresses that are to be tried next: those that failed least often, and of these those of the
// lowest rank. So a lower priority's turn comes when the higher ones have failed.
func (s *search) best(addrs []ranked, known map[netip.AddrPort]bool) (next []netip.AddrPort) {
	var times, rank int
	for _, a := range addrs {
		n, r := s.failed[a.addr].times, int(a.rank)
		if known[a.addr] || len(next) > 0 && (n > times || n == times && r > rank) {
			continue
		}
		if len(next) > 0 && (n < times || r < rank) {
			next = nil
		}
		times, rank, next = n, r, append(next, a.addr)
	}
	return next
}

// pick takes some of each list in turn, [pace.Fanout] at most, and notes in known that they are taken.
func (s *search) pick(lists [][]ranked, known map[netip.AddrPort]bool) (picked []netip.AddrPort) {
	next := make([][]netip.AddrPort, len(lists))
	for i, l := range lists {
		next[i] = s.best(l, known)
	}
	rand.Shuffle(len(next), func(i, j int) { next[i], next[j] = next[j], next[i] }) //nolint:gosec // any order will do
	for len(next) > 0 && len(picked) < pace.Fanout {
		var rest [][]netip.AddrPort
		for _, l := range next {
			if len(l) > 0 && !known[l[0]] && len(picked) < pace.Fanout {
				known[l[0]] = true // once is enough
				picked = append(picked, l[0])
			}
			if len(l) > 1 {
				rest = append(rest, l[1:])
			}
		}
		next = rest
	}
	return picked
}

// note takes in what came of trying addrs.
func (s *search) note(addrs []netip.AddrPort, errs []error) {
	if s.failed == nil || len(s.failed) > maxFailures {
		s.failed = make(map[netip.AddrPort]failure)
	}
	for i, a := range addrs {
		if errs[i] == nil { //nolint:gosec // there are as many as addrs
			delete(s.failed, a)
		} else {
			s.failed[a] = failure{s.failed[a].times + 1, errs[i]} //nolint:gosec // see above
		}
	}
}

// errors tells what is wrong with each seed.
func (s *search) errors(seeds []found) []SeedError {
	all := make([]SeedError, len(seeds))
	for i, f := range seeds {
		all[i] = SeedError{f.seed, f.err}
		for _, a := range f.addrs {
			if err := s.failed[a.addr].err; err != nil {
				all[i].Err = err
			}
		}
	}
	return all
}
