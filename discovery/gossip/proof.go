package gossip

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/guard"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
	"github.com/intramesh/mesh/discovery/gossip/internal/transport"
)

// An Identity shows who this process is, and tells whom a certificate belongs to. An *identity.Credential is one. It is safe for
// concurrent use.
type Identity = transport.Identity

// Refused counts what others sent and was refused. Each kind is also logged, at most every ten seconds.
type Refused struct {
	// Sealed are packets and streams that open with none of the pool's keys under its label: their sender belongs to another
	// pool or to none, has not heard of new keys, or somebody has changed them on the way.
	Sealed uint64
	// Messages are those that no honest member would have sent: malformed, compressed, too large, with an incarnation or an
	// address that the member can't have, or one member more than a pool may have.
	Messages uint64
	// Streams were opened to us by somebody without a member's certificate, were more than one host or all may have open, or
	// brought nothing in time.
	Streams uint64
	// Lies are records whose signer announced what its certificate does not allow.
	// A record is looked at when its service is looked up.
	Lies uint64
	// Forged are records that were not signed by whom they are about.
	Forged uint64
	// Replayed are records older than one that is known. A member that was cut off may send some too.
	Replayed uint64
}

// Refused returns what was refused so far.
func (m *Member) Refused() Refused {
	return m.pool.refusals()
}

func (p *pool) refusals() Refused {
	t := p.refused
	return Refused{
		Sealed: t.Count(tally.Sealed), Messages: t.Count(tally.Message), Streams: t.Count(tally.Stream),
		Lies: t.Count(tally.Lie), Forged: t.Count(tally.Forged), Replayed: t.Count(tally.Replayed),
	}
}

// A proof is a certificate that the process at a member's address has shown, as far as its records need it.
type proof struct {
	cert    record.CertHash
	service string
	key     crypto.PublicKey
	until   time.Time
}

// prove asks the member at an address who it is: it holds the key of the certificate that it shows.
func (c Config) prove(ctx context.Context, addr string) (*proof, error) {
	chain, err := c.dialer().Chain(ctx, addr)
	if err != nil {
		return nil, err
	}
	service, err := c.Identity.VerifyMember(chain)
	if err != nil {
		return nil, err
	}
	until := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	return &proof{record.HashOf(chain[0].Raw), service, chain[0].PublicKey, until}, nil
}

const (
	// maxChecks bounds how many members are asked for their certificate at one time.
	maxChecks = 8
	// checkSpread is the time over which those who know a member ask it for its new certificate.
	checkSpread = 200 * time.Millisecond
	// checkGap is the least time between asking one member twice because of what was said in its name.
	checkGap = 3 * time.Second
	// maxCheckPause bounds the time until a member is asked again that did not answer.
	maxCheckPause = 30 * time.Second
)

// A check is a member to ask for its certificate.
type check struct {
	due    time.Time
	failed int
	busy   bool
}

type lieError struct{ service, claimed string }

func (e *lieError) Error() string {
	return fmt.Sprintf("it is %s by its certificate, and announces an endpoint of %s", e.service, e.claimed)
}

func isLie(err error) bool {
	_, ok := errors.AsType[*lieError](err)
	return ok
}

// judge returns an error unless m's certificate allows the record, which it has signed.
func (p *pool) judge(m *member, meta []byte, r record.Record) error {
	proof := m.wanted.proof
	if err := record.Verify(meta, p.subject(m.name, m.at.addr()), proof.key); err != nil {
		return err
	}
	for _, ep := range r.Endpoints {
		if ep.Service != proof.service {
			return &lieError{proof.service, ep.Service}
		}
	}
	return nil
}

// refuse counts and reports a record that is not believed.
func (p *pool) refuse(m *member, err error) {
	kind := tally.Forged
	if isLie(err) {
		kind = tally.Lie
	}
	if n := p.refused.Add(kind); n > 0 {
		p.log.Warn("gossip: record refused", "instance", m.name, "addr", m.at.addr(), "error", err, "refused", n)
	}
}

// outdated counts and reports a record that is older than what is known.
func (p *pool) outdated(name string, addr netip.AddrPort, r record.Record, known uint64) {
	if n := p.refused.Add(tally.Replayed); n > 0 {
		p.log.Info("gossip: old record", "instance", name, "addr", addr, "generation", r.Generation, "known", known, "refused", n)
	}
}

// assess decides whether m's record is to be believed, as far as that is known.
func (p *pool) assess(m *member, r record.Record, now time.Time) {
	m.verified, m.lies = false, false
	switch known := m.wanted; {
	case p.identity == nil:
	case known != nil && known.proof != nil && known.proof.cert == r.Cert && now.Before(known.proof.until):
		err := p.judge(m, m.meta, r)
		if err != nil {
			p.refuse(m, err)
		}
		p.believe(m, r, err == nil)
	case p.isWanted(m):
		p.schedule(m, now, checkSpread)
	}
}

// believe notes what was found out about m's record. Who has left is remembered, so that nobody brings it back by repeating
// what it said before.
func (p *pool) believe(m *member, r record.Record, verified bool) {
	m.verified, m.lies = verified, !verified
	if !verified || !r.Left {
		return
	}
	if len(p.goodbyes) >= guard.MaxMembers {
		clear(p.goodbyes) // a zombie would be found out when it can't show its certificate
	}
	p.goodbyes[m.name] = r.Generation
}

func (p *pool) isWanted(m *member) bool {
	for _, s := range m.services() {
		if p.wanted[s] {
			return true
		}
	}
	return false
}

// schedule has a member asked for its certificate, some time within spread, but not all the time: others may speak in its name.
func (p *pool) schedule(m *member, now time.Time, spread time.Duration) {
	if p.checks[m] == nil {
		due := max(now.Add(rand.N(spread+1)).UnixMilli(), m.want().asked+checkGap.Milliseconds()) //nolint:gosec // not a secret
		p.checks[m] = &check{due: time.UnixMilli(due)}
		p.poke()
	}
}

// recheck asks those again whose certificate has expired: a member that lives has renewed it.
func (p *pool) recheck(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for service := range p.wanted {
		for _, m := range p.services[service] {
			if m.verified && !now.Before(m.wanted.proof.until) {
				m.verified = false
				p.schedule(m, now, checkSpread)
				p.touch(m)
			}
		}
	}
	p.publish()
}

// startChecks starts what is due, and returns how long until the next is.
func (p *pool) startChecks(ctx context.Context, workers *sync.WaitGroup, now time.Time) (next time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for m, c := range p.checks {
		if c.busy || p.checking == maxChecks {
			continue
		}
		if wait := c.due.Sub(now); wait > 0 {
			if !ok || wait < next {
				next, ok = wait, true
			}
			continue
		}
		c.busy, m.want().asked = true, now.UnixMilli()
		p.checking++
		addr := m.at.addr().String()
		workers.Go(func() {
			shown, err := p.prove(ctx, addr)
			p.checked(m, c, shown, err, time.Now())
		})
	}
	return next, ok
}

// checked takes in what a member has shown.
func (p *pool) checked(m *member, c *check, shown *proof, err error, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checking--
	p.poke()
	if p.checks[m] != c {
		return // it is gone
	}
	c.busy = false
	if err == nil && p.fits(m, shown, now) {
		delete(p.checks, m)
		p.touch(m)
		if p.observer != nil {
			p.observer.unproven(m, now)
		}
		p.publish()
		return
	}
	if c.failed++; p.observer != nil {
		p.observer.unproven(m, now)
	}
	pause := min(time.Second<<min(c.failed-1, 10), maxCheckPause)
	c.due = now.Add(pause/2 + rand.N(pause)) //nolint:gosec // not a secret
	p.log.Debug("gossip: no certificate for a record", "instance", m.name, "addr", m.at.addr(), "failed", c.failed, "error", err)
}

// fits reports whether what a member has shown is the certificate that its record, or the next one, is signed with, and
// decides about both.
func (p *pool) fits(m *member, shown *proof, now time.Time) bool {
	for _, meta := range [][]byte{m.want().next, m.meta} {
		r, err := record.Decode(meta, m.name, m.at.addr().Addr())
		if err != nil || meta == nil || r.Cert != shown.cert {
			continue
		}
		m.want().proof = shown
		p.set(m, meta, r)
		p.assess(m, r, now)
		return true
	}
	return false
}
