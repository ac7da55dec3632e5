// Package consul is discovery from a Consul catalog, by blocking queries on the health of each service
// (developer.hashicorp.com/consul/api-docs/features/blocking).
//
// An endpoint's Instance is its node and service ID, which differ for two services of one process. Its Zone is that of the instance's
// or the node's locality, "region/zone", its Weight the one for its health; Also are its addresses tagged lan_ipv4 and lan_ipv6. An
// instance whose check is critical is marked Suspect, so that it is used only when no other is left; one in maintenance is draining.
// One without a port, or with a name for an address, is left out.
//
// Each service is a query that waits, over a connection of its own: Consul takes 200 of them from an IP address
// (limits.http_max_conns_per_client). Of more than 64 services, 64 are waited for at a time, each within ten seconds.
//
// While Consul can't be reached, what it said last stays known; after Config.StaleAfter it is marked Suspect.
package consul

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/internal/remote"
	"github.com/intramesh/mesh/discovery/internal/table"
	"github.com/intramesh/mesh/internal/names"
)

// A Service says under which name one port of a service is in the catalog.
type Service struct {
	// Service and Port are what is dialed in the mesh; an empty Port is the default one.
	Service, Port string
	// Name is the service's in Consul; empty means Service.
	Name string
	// Tag restricts it to instances with this tag; it may be empty.
	Tag string
}

// A Config says what is followed, and where. It is copied.
type Config struct {
	// URL is that of a Consul server or agent. It is https, or http on the loopback interface.
	URL string
	// Services are all that will be known.
	Services []Service
	// TokenFile holds an ACL token with service:read and node:read. It is read again for each request; empty sends none. A token
	// without the permission is an error; without a token, Consul itself says that there is nobody.
	TokenFile string
	// TLS verifies the server, and may hold a client certificate. Nil trusts the system's authorities. TLS 1.3 is required.
	TLS *tls.Config
	// Datacenter, Namespace and Partition are what they are to Consul; each may be empty.
	Datacenter, Namespace, Partition string
	// Consistent asks Consul's leader. Otherwise any server may answer, which may be behind by some milliseconds, but does so
	// without a leader too.
	Consistent bool
	// StaleAfter is for how long Consul may be away before what it said is suspect; 0 means 30 s.
	StaleAfter time.Duration
	// Logger is told when a service can't be followed, and when it can again; nil discards.
	Logger *slog.Logger
}

// A Source is a [discovery.Resolver]. It is safe for concurrent use.
type Source struct {
	cfg    Config
	base   *url.URL
	client *http.Client
	table  *table.Parts  // one for each of cfg.Services
	turns  chan struct{} // held while a query is under way
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New starts to follow the services. It does not wait for Consul: see [Source.Synced]. The error is about the
// configuration. The caller closes the source.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg}
	s.cfg.Services = slices.Clone(cfg.Services)
	s.cfg.StaleAfter = cmp.Or(cfg.StaleAfter, 30*time.Second)
	if s.cfg.Logger == nil {
		s.cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("discovery: consul: %w", err)
	}
	conf := cfg.TLS
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS13}
	}
	s.turns = make(chan struct{}, maxQueries)
	s.client = &http.Client{Transport: remote.Transport(conf), CheckRedirect: remote.Stay}
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

func (s *Source) check() (err error) {
	s.base, err = remote.URL(s.cfg.URL)
	if err != nil {
		return err
	}
	seen := make(map[[2]string]bool)
	for i := range s.cfg.Services {
		svc := &s.cfg.Services[i]
		svc.Name = cmp.Or(svc.Name, svc.Service)
		if err := names.CheckService(svc.Service); err != nil {
			return err
		}
		if svc.Port != "" {
			if err := names.CheckPort(svc.Port); err != nil {
				return err
			}
		}
		key := [2]string{svc.Service, svc.Port}
		if seen[key] {
			return fmt.Errorf("%s is listed twice for port %q: merge two sources instead", svc.Service, svc.Port)
		}
		seen[key] = true
	}
	return nil
}

// Lookup implements [discovery.Resolver].
func (s *Source) Lookup(service string) discovery.Snapshot { return s.table.Lookup(service) }

// Synced returns a channel that is closed when Consul has answered about each service once.
func (s *Source) Synced() <-chan struct{} { return s.table.Synced() }

// Close ends the queries; what is known stays. It always returns nil.
func (s *Source) Close() error {
	s.cancel()
	s.wg.Wait()
	s.client.CloseIdleConnections()
	return nil
}

// pace is the least time between two answers about a service, for catalogs that change all the time.
const pace = 50 * time.Millisecond

// follow keeps one service up to date until ctx is done.
//
// A query that waited may be answered out of an agent's cache: by one that was just started, with an index that goes back and nobody,
// until it knows better; and where the token lost its permission, with nobody and no word about that. Neither counts: what
// is asked next does not wait, and is answered by a server. An index also goes back with a restored snapshot (Consul's documentation,
// "Implementation Details").
func (s *Source) follow(ctx context.Context, i int) {
	svc := s.cfg.Services[i]
	b := remote.Backoff{Min: 200 * time.Millisecond, Max: 30 * time.Second}
	var index uint64
	var last []discovery.Endpoint
	for first, stale := true, false; ; {
		found, next, err := s.query(ctx, svc, index)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			_, lasting, news := b.Failed(err)
			if news {
				s.cfg.Logger.Warn("discovery: Consul can't be asked", "service", svc.Service, "url", s.base.Redacted(), "error", err)
			}
			if lasting >= s.cfg.StaleAfter && !stale {
				stale = true
				s.cfg.Logger.Warn("discovery: what Consul said last is suspect", "service", svc.Service, "away", lasting, "error", err)
				s.table.Publish(i, suspects(last))
			}
			index = 0 // its answer comes at once, so that what is there is known again
			if !b.Wait(ctx, err) {
				return
			}
			continue
		}
		if b.Worked() {
			s.cfg.Logger.Info("discovery: Consul answers again", "service", svc.Service)
		}
		doubtful := next < index || index > 0 && len(found) == 0 && len(last) > 0
		index = max(next, 1) // below 1 would not block
		if doubtful {
			index = 0
		} else {
			last, stale = found, false
			s.table.Publish(i, slices.Clone(found))
			if first {
				first = false
				s.table.Answered()
			}
		}
		select {
		case <-time.After(pace):
		case <-ctx.Done():
			return
		}
	}
}

func suspects(all []discovery.Endpoint) []discovery.Endpoint {
	all = slices.Clone(all)
	for i := range all {
		all[i].Suspect = true
	}
	return all
}

var (
	errNoIndex = errors.New("the answer has no X-Consul-Index: this is not Consul")
	// errFiltered is what Consul answers as success, with an empty list and a header.
	errFiltered = errors.New("the token may not read the service and its nodes: it needs service:read and node:read")
)
