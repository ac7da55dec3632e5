// Package dns is discovery from DNS: SRV records (RFC 2782), or A and AAAA records and a port. It asks again when the
// answers' TTL ends.
//
// A record tells neither instance, zone nor state. An endpoint's Instance is its address, and all are ready. Its Weight is that of
// the SRV record; targets of any but the best priority are marked Suspect, so that they are used last. Of a
// name with IPv4 and IPv6 addresses one family is used: a host with both is one endpoint.
//
// DNS is not authenticated here. As always in discovery, who answers at an address is decided by its certificate.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/internal/table"
	"github.com/intramesh/mesh/internal/names"
)

// A Service says under which name one port of a service is found.
type Service struct {
	// Service and Port are what is dialed in the mesh; an empty Port is the default one.
	Service, Port string
	// Name is the domain name, always taken as absolute: "_payments._tcp.example.net" or "payments.example.net".
	Name string
	// TCPPort is where the addresses of Name listen. 0 asks for SRV records, which tell the port.
	TCPPort uint16
}

// A Config says what is asked, and whom. It is copied.
type Config struct {
	// Services are all that will be known.
	Services []Service
	// Servers are recursive servers, asked in this order. Empty means those of /etc/resolv.conf, read each time.
	Servers []netip.AddrPort
	// PreferIPv6 uses the IPv6 addresses of a name that has both.
	PreferIPv6 bool
	// MinTTL and MaxTTL bound how long an answer counts, 0 means 5 s and 5 min.
	MinTTL, MaxTTL time.Duration
	// Keep is how long endpoints stay, marked Suspect, when an answer drops more than half of a service's at once: 0 means
	// a minute. Fewer go at once.
	Keep time.Duration
	// Timeout bounds the wait for a server's answer; 0 means 2 s.
	Timeout time.Duration
	// Logger is told when a service's name can't be resolved, and when it can again; nil discards.
	Logger *slog.Logger
}

// A Source is a [discovery.Resolver]. While DNS does not answer, what it said last stays known, marked Suspect. It is safe for
// concurrent use.
type Source struct {
	cfg    Config
	names  []dnsmessage.Name // of cfg.Services
	table  *table.Parts      // one for each of cfg.Services
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New starts to resolve the services. It does not wait for answers: see [Source.Synced]. The error is about the
// configuration. The caller closes the source.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg}
	s.cfg.Services, s.cfg.Servers = slices.Clone(cfg.Services), slices.Clone(cfg.Servers)
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&s.cfg.MinTTL, 5 * time.Second}, {&s.cfg.MaxTTL, 5 * time.Minute}, {&s.cfg.Keep, time.Minute}, {&s.cfg.Timeout, 2 * time.Second}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if s.cfg.Logger == nil {
		s.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("discovery: dns: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	services := make([]string, 0, len(s.cfg.Services))
	for _, svc := range s.cfg.Services {
		services = append(services, svc.Service)
	}
	s.table = table.NewParts(services)
	for i := range s.cfg.Services {
		s.wg.Go(func() { s.follow(ctx, i) })
	}
	return s, nil
}

func (s *Source) check() error {
	type port struct{ service, port string }
	seen := make(map[port]bool)
	for _, svc := range s.cfg.Services {
		err := names.CheckService(svc.Service)
		if err == nil && svc.Port != "" {
			err = names.CheckPort(svc.Port)
		}
		name, nerr := dnsmessage.NewName(strings.TrimSuffix(svc.Name, ".") + ".")
		switch p := (port{svc.Service, svc.Port}); {
		case err != nil:
			return err
		case nerr != nil || svc.Name == "":
			return fmt.Errorf("%s: %q is no domain name", svc.Service, svc.Name)
		case seen[p]:
			return fmt.Errorf("%s is listed twice for port %q: merge two sources instead", svc.Service, svc.Port)
		default:
			seen[p] = true
			s.names = append(s.names, name)
		}
	}
	if len(s.cfg.Servers) > 0 {
		return nil
	}
	_, err := systemServers()
	return err
}

// Lookup implements [discovery.Resolver].
func (s *Source) Lookup(service string) discovery.Snapshot { return s.table.Lookup(service) }

// Synced returns a channel that is closed when each service was answered once, if only by saying that there is none.
func (s *Source) Synced() <-chan struct{} { return s.table.Synced() }

// Close stops asking; what is known stays. It always returns nil.
func (s *Source) Close() error {
	s.cancel()
	s.wg.Wait()
	return nil
}

// maxRetry bounds the time between attempts while no server answers.
const maxRetry = 30 * time.Second

// follow keeps one service up to date until ctx is done.
func (s *Source) follow(ctx context.Context, i int) {
	svc := s.cfg.Services[i]
	k := keeper{keep: s.cfg.Keep}
	failures := 0
	for first := true; ; {
		found, ttl, err := s.resolve(ctx, i)
		if ctx.Err() != nil {
			return
		}
		var wait time.Duration
		if err != nil {
			if failures == 0 {
				s.cfg.Logger.Warn("discovery: no answer from DNS: what it said last is suspect", "service", svc.Service, "name", svc.Name, "error", err)
			}
			wait = min(s.cfg.MinTTL<<min(failures, 16), max(maxRetry, s.cfg.MinTTL))
			failures++
			s.table.Publish(i, k.stale())
		} else {
			if failures > 0 {
				s.cfg.Logger.Info("discovery: DNS answers again", "service", svc.Service, "name", svc.Name, "endpoints", len(found))
			}
			failures = 0
			s.table.Publish(i, k.fresh(found, time.Now()))
			wait = min(max(ttl, s.cfg.MinTTL), s.cfg.MaxTTL)
			if first {
				first = false
				s.table.Answered()
			}
		}
		wait += rand.N(wait/8 + 1) //nolint:gosec // what expires together need not be asked for together
		if !k.until.IsZero() {
			wait = min(wait, max(time.Until(k.until), s.cfg.MinTTL))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// keeper holds what an answer dropped, when that is suspiciously much.
type keeper struct {
	keep  time.Duration
	last  map[string]discovery.Endpoint // of the last answer, by Instance
	kept  map[string]discovery.Endpoint // dropped by it, or by one before
	until time.Time                     // when kept ends; zero when it is empty
}

// fresh takes an answer and returns what is known now.
func (k *keeper) fresh(found []discovery.Endpoint, now time.Time) []discovery.Endpoint {
	next := make(map[string]discovery.Endpoint, len(found))
	for _, ep := range found {
		next[ep.Instance] = ep
	}
	dropped := maps.Clone(k.last)
	maps.DeleteFunc(dropped, func(name string, _ discovery.Endpoint) bool { _, there := next[name]; return there })
	if !k.until.After(now) {
		k.kept, k.until = nil, time.Time{}
	}
	if 2*len(dropped) > len(k.last) {
		if k.kept == nil {
			k.kept = make(map[string]discovery.Endpoint)
		}
		maps.Copy(k.kept, dropped)
		k.until = now.Add(k.keep)
	}
	k.last = next
	return k.all(false)
}

// stale returns what is known when there is no answer.
func (k *keeper) stale() []discovery.Endpoint { return k.all(true) }

func (k *keeper) all(suspect bool) []discovery.Endpoint {
	var all []discovery.Endpoint
	for _, ep := range k.last {
		ep.Suspect = ep.Suspect || suspect
		all = append(all, ep)
	}
	for name, ep := range k.kept {
		if _, there := k.last[name]; !there {
			ep.Suspect = true
			all = append(all, ep)
		}
	}
	return all
}

// maxEndpoints bounds what one name can bring.
const maxEndpoints = 1024

// resolve asks for one of cfg.Services. That there is none is no error.
func (s *Source) resolve(ctx context.Context, i int) ([]discovery.Endpoint, time.Duration, error) {
	q := querier{servers: s.cfg.Servers, timeout: s.cfg.Timeout, v6: s.cfg.PreferIPv6}
	if len(q.servers) == 0 {
		var err error
		if q.servers, err = systemServers(); err != nil {
			return nil, 0, err
		}
	}
	svc := s.cfg.Services[i]
	var targets []target
	var ttl time.Duration
	var err error
	if svc.TCPPort != 0 {
		var addrs []netip.Addr
		if addrs, ttl, err = q.hosts(ctx, s.names[i]); err == nil {
			targets = []target{{port: svc.TCPPort, addrs: addrs}}
		}
	} else {
		targets, ttl, err = q.services(ctx, s.names[i])
	}
	if err != nil {
		return nil, 0, err
	}
	var all []discovery.Endpoint
	for _, t := range targets {
		for _, a := range t.addrs {
			ap := netip.AddrPortFrom(a, t.port)
			same := func(ep discovery.Endpoint) bool { return ep.Addr == ap }
			if t.port == 0 || slices.ContainsFunc(all, same) {
				continue
			}
			if len(all) == maxEndpoints {
				return nil, 0, errors.New("more endpoints than anybody dials")
			}
			all = append(all, discovery.Endpoint{
				Service: svc.Service, Port: svc.Port, Instance: ap.String(), Addr: ap, Weight: t.weight, Suspect: t.priority != targets[0].priority,
			})
		}
	}
	return all, ttl, nil
}
