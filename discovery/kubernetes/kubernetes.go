// Package kubernetes is discovery from Kubernetes' EndpointSlices (discovery.k8s.io/v1): it lists those of one namespace, or
// all, and watches them.
//
// A service of Config.Namespace has its plain name, "payments"; one of another namespace is "billing/invoices". The port that
// has no name, or is called "mesh", is the default one; others keep their names. Of a pod that is terminating the
// State is draining, of one that is not ready starting. Its Instance is its name and the start of its UID. Weights
// are not told. A pod with addresses of both families is one endpoint: see Config.PreferIPv6. Hints for zones are not looked at: the dialer prefers
// its zone by itself.
//
// The process needs the permission to list and watch endpointslices:
//
//	apiVersion: rbac.authorization.k8s.io/v1
//	kind: Role
//	metadata: {name: mesh-discovery}
//	rules:
//	- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
//
// While the API server can't be reached, what it said last stays known; after Config.StaleAfter it is marked
// Suspect.
package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/internal/remote"
	"github.com/intramesh/mesh/discovery/internal/table"
)

// serviceAccount is where a pod finds what it needs (kubernetes.io/docs/tasks/run-application/access-api-from-pod).
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/"

// A Config says which cluster is followed, and what of it. It is copied. Within a pod it may be zero.
type Config struct {
	// URL is the API server's, https, or http on the loopback interface. Empty means the one of the pod's environment.
	URL string
	// TokenFile and CAFile hold the bearer token and the authorities of the API server. Both are read again for each
	// request, since they rotate. Empty means those of the pod's service account.
	TokenFile, CAFile string
	// Namespace is the one whose services have plain names. Empty means the pod's.
	Namespace string
	// AllNamespaces follows the other namespaces too. That takes a ClusterRole.
	AllNamespaces bool
	// Selector restricts what is followed to EndpointSlices with these labels, which they have from
	// their Service: "mesh=true". Empty means all.
	Selector string
	// DefaultPort is the port that is dialed without a name; empty means "mesh".
	DefaultPort string
	// PreferIPv6 puts the IPv6 address first for a pod that has both; the other one is in Endpoint.Also.
	PreferIPv6 bool
	// StaleAfter is for how long the API server may be away before what it said is suspect; 0 means 30 s.
	StaleAfter time.Duration
	// Logger is told when the API server can't be followed, and when it can again; nil discards.
	Logger *slog.Logger
}

// A Source is a [discovery.Resolver]. It is safe for concurrent use.
type Source struct {
	cfg    Config
	api    api
	slices *cache
	table  *table.Table
	warned bool // that it can't be followed; as slices, it belongs to run
	cancel context.CancelFunc
	wg     sync.WaitGroup
	synced chan struct{}
	first  sync.Once
}

// New starts to follow the cluster. It does not wait for the API server: see [Source.Synced]. The error is about the
// configuration. The caller closes the source.
func New(cfg Config) (*Source, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("discovery: kubernetes: %w", err)
	}
	base, err := remote.URL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("discovery: kubernetes: %w", err)
	}
	s := &Source{cfg: cfg, api: api{cfg: &cfg, base: base}, slices: newCache(&cfg), table: table.New(), synced: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.run(ctx) })
	return s, nil
}

// complete fills in what a pod knows.
func (c *Config) complete() error {
	if c.URL == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return errors.New("no URL, and this is no pod: KUBERNETES_SERVICE_HOST and _PORT are not set")
		}
		c.URL = "https://" + net.JoinHostPort(host, port)
	}
	if c.Namespace == "" {
		ns, err := remote.File(serviceAccount + "namespace")
		if err != nil {
			return fmt.Errorf("no Namespace: %w", err)
		}
		c.Namespace = string(ns)
	}
	c.TokenFile = cmp.Or(c.TokenFile, serviceAccount+"token")
	c.CAFile = cmp.Or(c.CAFile, serviceAccount+"ca.crt")
	c.DefaultPort = cmp.Or(c.DefaultPort, "mesh")
	c.StaleAfter = cmp.Or(c.StaleAfter, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Lookup implements [discovery.Resolver].
func (s *Source) Lookup(service string) discovery.Snapshot { return s.table.Lookup(service) }

// Synced returns a channel that is closed when everything was listed once.
func (s *Source) Synced() <-chan struct{} { return s.synced }

// Close ends the watch; what is known stays. It always returns nil.
func (s *Source) Close() error {
	s.cancel()
	s.wg.Wait()
	s.api.close()
	return nil
}

// run lists and watches until ctx is done.
func (s *Source) run(ctx context.Context) {
	b := remote.Backoff{Min: 200 * time.Millisecond, Max: 30 * time.Second}
	version := "" // to watch from; empty when a list is due
	for {
		from := version
		var err error
		if version, err = s.follow(ctx, from, &b); ctx.Err() != nil {
			return
		}
		if err == nil {
			continue
		}
		gone := errors.Is(err, errGone)
		if gone {
			s.cfg.Logger.Debug("discovery: Kubernetes forgot what changed meanwhile: everything is listed again", "error", err)
		}
		if gone && from != "" {
			continue // the server answers: only what had just been listed can't be too old
		}
		_, lasting, news := b.Failed(err)
		if news || !s.warned {
			s.warned = true
			s.cfg.Logger.Warn("discovery: Kubernetes can't be followed", "url", s.cfg.URL, "error", err)
		}
		if lasting >= s.cfg.StaleAfter && s.slices.suspect(true) {
			s.cfg.Logger.Warn("discovery: what Kubernetes said last is suspect", "away", lasting, "error", err)
			s.table.Replace(s.slices.all())
		}
		if !b.Wait(ctx, err) {
			return
		}
	}
}

// follow watches from a version, or lists first. It returns from where to watch next, "" for a list.
func (s *Source) follow(ctx context.Context, version string, b *remote.Backoff) (string, error) {
	if version == "" {
		all, listed, err := s.api.list(ctx)
		if err != nil {
			return "", err
		}
		s.table.Replace(s.slices.replace(all))
		s.first.Do(func() { close(s.synced) })
		version = listed
	}
	start := time.Now()
	version, err := s.api.watch(ctx, version, watcher{
		started: func() {
			if s.warned {
				s.warned = false
				s.cfg.Logger.Info("discovery: Kubernetes is followed again", "url", s.cfg.URL)
			}
			if s.slices.suspect(false) {
				s.table.Replace(s.slices.all())
			}
		},
		event: func(e event) { s.table.Update(s.slices.apply(e)) },
	})
	if time.Since(start) > time.Second {
		b.Worked()
	} else if err == nil {
		err = errors.New("the watch ended as soon as it began")
	}
	return version, err // without an error it is over, as it is every few minutes
}
