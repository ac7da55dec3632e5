package gossip

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip/internal/record"
	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
	"github.com/intramesh/mesh/discovery/internal/table"
)

// A FullError says that what a member announces does not fit its record.
type FullError struct {
	// Size is what the record would have, Limit what it may have, in bytes.
	Size, Limit int
}

// Error says both sizes.
func (e *FullError) Error() string {
	return fmt.Sprintf("the member's record would have %d bytes, of %d: announce fewer or shorter names", e.Size, e.Limit)
}

// A follower fills the pool of a process that is no member, see observer. Its methods are called with the pool's mu held.
type follower interface {
	// follow makes a service known, if there is one.
	follow(service string)
	// blind reports whether nobody tells anything.
	blind() bool
	// disputes reports whether some say that a suspect lives.
	disputes(m *member) bool
	// unproven looks for something else that is said of a member, whose certificate does not fit what is known.
	unproven(m *member, now time.Time)
	// forgotten notes that a member was.
	forgotten(name string)
}

// pool is what is known of the members. It learns from memberlist by way of news, which the
// run loop applies: memberlist calls back under its own lock.
type pool struct {
	table    *table.Table // the services that were looked up
	log      *slog.Logger
	addr     netip.AddrPort
	name     string
	label    string
	zone     string
	ttl      time.Duration
	identity Identity // nil: records are not signed
	prove    func(ctx context.Context, addr string) (*proof, error)
	wake     chan struct{} // capacity 1

	newsMu sync.Mutex
	news   map[string]news // by member; the latest counts

	applyMu sync.Mutex // serializes apply, so that news stay in order

	mu        sync.Mutex
	own       record.Record
	bundle    uint64 // the version of the rules in force here
	announced bool   // something other than nothing
	encoded   []byte
	members   map[string]*member    // without us
	services  map[string][]*member  // who announces what, without us
	wanted    map[string]bool       // services in the table
	dirty     map[string]bool       // services whose snapshot is out of date
	appeared  bool                  // a service that nobody announced before
	dead      map[*member]time.Time // since when
	checks    map[*member]*check
	checking  int               // of checks, under way
	goodbyes  map[string]uint64 // generation of the last record, by members that left
	left      []netip.AddrPort  // of those who left, see takeLeft
	refused   *tally.Tally
	newcomer  chan struct{}         // has something when there is a member that was not known
	arrived   int                   // members that joined or came back since the last comparison
	stirred   chan struct{}         // has something when these are many
	observers int                   // that are served
	watchers  map[string][]*watcher // of observers, who follows a service
	observer  follower              // nil in a full member
}

func newPool(cfg Config, addr netip.AddrPort) (*pool, error) {
	p := &pool{
		table: table.New(), log: cfg.Logger, addr: addr, name: cfg.Instance, label: cfg.Label, zone: cfg.Zone,
		identity: cfg.Identity, ttl: cfg.SuspectTTL, wake: make(chan struct{}, 1),
		news: make(map[string]news), members: make(map[string]*member), services: make(map[string][]*member),
		wanted: make(map[string]bool), dirty: make(map[string]bool), dead: make(map[*member]time.Time),
		checks: make(map[*member]*check), goodbyes: make(map[string]uint64), newcomer: make(chan struct{}, 1), stirred: make(chan struct{}, 1), refused: cmp.Or(cfg.refused, new(tally.Tally)),
		watchers: make(map[string][]*watcher),
	}
	return p, p.announce(record.Record{})
}

// register adds ep to our record, or replaces the one for the same service and port.
func (p *pool) register(ep discovery.Endpoint) (changed bool, err error) {
	ep.Instance, ep.Suspect = p.name, false
	if ep.Addr.Addr().IsUnspecified() {
		ep.Addr = netip.AddrPortFrom(p.addr.Addr(), ep.Addr.Port())
	}
	ep.Addr = netip.AddrPortFrom(ep.Addr.Addr().Unmap().WithZone(""), ep.Addr.Port())
	also := ep.Also.All()
	for i, a := range also {
		if a == ep.Addr.Addr() {
			also[i] = netip.Addr{} // AddrsOf leaves it out
		}
	}
	ep.Also = discovery.AddrsOf(also...)
	if ep.Zone == "" {
		ep.Zone = p.zone
	}
	if err := record.Check(ep); err != nil {
		return false, err
	}
	if err := p.mayAnnounce(ep.Service); err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.own.Endpoints, ep) {
		return false, nil
	}
	next := p.own
	next.Endpoints = append(p.without(ep), ep)
	return true, p.announce(next)
}

// mayAnnounce returns an error for a service that our certificate is not for: others would not believe us.
func (p *pool) mayAnnounce(service string) error {
	if p.identity == nil {
		return nil
	}
	cert, err := p.identity.Certificate()
	if err != nil {
		return err
	}
	chain := make([]*x509.Certificate, len(cert.Certificate))
	for i, der := range cert.Certificate {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return err
		}
	}
	own, err := p.identity.VerifyMember(chain)
	if err != nil {
		return err
	}
	if own != service {
		return &lieError{own, service}
	}
	return nil
}

func (p *pool) deregister(ep discovery.Endpoint) (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.own
	if next.Endpoints = p.without(ep); len(next.Endpoints) == len(p.own.Endpoints) {
		return false, nil
	}
	return true, p.announce(next)
}

// withdraw removes everything from our record, for good. It reports whether there ever was anything.
func (p *pool) withdraw() (announced bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.own
	next.Endpoints, next.Left = nil, true
	return p.announced, p.announce(next)
}

// renew announces our record anew when the certificate was replaced, or when others may need to know which rules we have.
func (p *pool) renew() (changed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	needed := p.bundle > p.own.Bundle && p.told(p.bundle) < bundleTellers
	if p.identity != nil {
		cert, err := p.identity.Certificate()
		if err != nil {
			return false, err
		}
		needed = needed || record.HashOf(cert.Certificate[0]) != p.own.Cert
	}
	if !needed {
		return false, nil
	}
	return true, p.announce(p.own)
}

// bundleTellers is how many members say that they have new rules: if all did at once, thousands of records would change
// for one fact.
const bundleTellers = 3

// told counts the others that live and say they have these rules or newer ones.
func (p *pool) told(version uint64) (n int) {
	for _, m := range p.members {
		if !m.dead && m.bundle >= version {
			n++
		}
	}
	return n
}

// without returns our endpoints but for the one with the service and port of ep.
func (p *pool) without(ep discovery.Endpoint) []discovery.Endpoint {
	var rest []discovery.Endpoint
	for _, o := range p.own.Endpoints {
		if o.Service != ep.Service || o.Port != ep.Port {
			rest = append(rest, o)
		}
	}
	return rest
}

// announce replaces our record; p.mu is held. The generation goes on from the clock, so that whoever restarts under
// its old name is believed.
func (p *pool) announce(next record.Record) error {
	next.Zone, next.Bundle = p.zone, p.bundle
	next.Generation = max(p.own.Generation+1, uint64(time.Now().UnixMilli()))
	encoded, err := p.seal(&next)
	if err != nil {
		return err
	}
	if len(encoded) > record.MaxSize {
		return &FullError{len(encoded), record.MaxSize}
	}
	for _, r := range []record.Record{p.own, next} {
		for _, service := range services(r) {
			p.appeared = p.appeared || !p.exists(service)
			p.dirty[service] = true
		}
		p.tell(p.name, services(r), nil)
	}
	p.announced = p.announced || len(next.Endpoints) > 0
	p.own, p.encoded = next, encoded
	p.publish()
	return nil
}

// seal encodes and signs our record.
func (p *pool) seal(r *record.Record) ([]byte, error) {
	if p.identity == nil {
		return r.Encode(p.addr.Addr()), nil
	}
	cert, err := p.identity.Certificate()
	if err != nil {
		return nil, err
	}
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, errors.New("the certificate's key can't sign")
	}
	r.Cert = record.HashOf(cert.Certificate[0])
	return record.Sign(r.Encode(p.addr.Addr()), p.subject(p.name, p.addr), key)
}

func (p *pool) subject(name string, addr netip.AddrPort) record.Subject {
	return record.Subject{Label: p.label, Instance: name, Addr: addr.String()}
}

// run applies news, lets suspects expire and has records verified, until ctx is done.
func (p *pool) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var workers sync.WaitGroup
	defer workers.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-timer.C:
		}
		now := time.Now()
		next, ok := p.apply(now)
		if due, some := p.startChecks(ctx, &workers, now); some && (!ok || due < next) {
			next, ok = due, true
		}
		if ok {
			timer.Reset(next)
		}
	}
}

// poke makes run look.
func (p *pool) poke() { poke(p.wake) }

// poke wakes who waits for c, which has the capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// takeLeft returns the addresses of members that left since the last call.
func (p *pool) takeLeft() []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.left
	p.left = nil
	return left
}
