package control

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
)

// A replica is a control plane on this store, as it says about itself every beat. What is known of the others goes to
// members, so that each can go to any of them.
type replica struct {
	Addresses
	Seen time.Time `json:"seen"`
}

const (
	beatEvery = time.Minute
	// replicaLife is how long one that says nothing is still named: it may come back.
	replicaLife = 24 * time.Hour
)

// replicas knows those that share a store. Its list is in memory: members are told of it without the store.
type replicas struct {
	table store.Table[replica]

	mu    sync.Mutex
	self  Addresses
	known []Addresses // this one may be among them
}

// refresh reads the others.
func (r *replicas) refresh(ctx context.Context) error {
	var known []Addresses
	for e, err := range r.table.All(ctx) {
		if err != nil {
			return err
		}
		if time.Since(e.Value.Seen) < replicaLife {
			known = append(known, e.Value.Addresses)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = known
	return nil
}

// announce writes that this one is there. The key is an address: two replicas can't share one.
func (r *replicas) announce(ctx context.Context, self Addresses) error {
	r.setSelf(self)
	op, err := r.table.Op(self.CA, replica{self, time.Now().UTC()}, 0)
	if err != nil {
		return err
	}
	_, err = r.table.DB.Commit(ctx, op)
	return err
}

func (r *replicas) setSelf(self Addresses) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.self = self
}

// all are this one and then the others, in a random order so that members spread.
func (r *replicas) all() []Addresses {
	r.mu.Lock()
	defer r.mu.Unlock()
	others := slices.DeleteFunc(slices.Clone(r.known), func(a Addresses) bool { return a.CA == r.self.CA })
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] }) //nolint:gosec // spreads load
	return append([]Addresses{r.self}, others...)
}

// beat announces this replica and reads the others until ctx is done.
func (s *Server) beat(ctx context.Context) {
	watch := s.db.Watch(ctx, store.KindReplicas)
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			err = s.replicas.announce(ctx, s.Addresses())
		case <-watch:
			err = s.replicas.refresh(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the list of replicas could not be kept up", "error", err)
		}
	}
}

// caHosts are where the authority's servers answer, this one's first.
func (r *replicas) caHosts() (hosts []string) {
	for _, a := range r.all() {
		hosts = append(hosts, a.CA)
	}
	return hosts
}

func caURLs(all []Addresses) (urls []string) {
	for _, a := range all {
		urls = append(urls, ca.URL(a.CA))
	}
	return urls
}

// sweepEvery is how often what is no longer needed is deleted, give or take a half.
const sweepEvery = 12 * time.Hour

// sweep forgets old records until ctx is done. Every replica does; one finds nothing left to do.
func (s *Server) sweep(ctx context.Context) {
	for {
		wait := time.NewTimer(sweepEvery/2 + rand.N(sweepEvery)) //nolint:gosec // spreads load
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		for what, f := range map[string]func(context.Context) error{
			"certificates": s.ca.Sweep, "versions": s.rules.Prune, "replicas": s.replicas.sweep, "audit log": s.sweepAudit,
			"tokens": s.gate.Sweep, "revocations": operator{s}.sweepRevocations,
		} {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "old records could not be deleted", "what", what, "error", err)
			}
		}
	}
}

func (r *replicas) sweep(ctx context.Context) error {
	_, err := store.Prune(ctx, r.table.DB, r.table.Kind, func(rec store.Record) bool {
		e, err := r.table.Decode(rec)
		return err == nil && time.Since(e.Value.Seen) > replicaLife
	})
	return err
}

func (s *Server) sweepAudit(ctx context.Context) error {
	log := store.Table[store.AuditEntry]{DB: s.db, Kind: store.KindAudit}
	_, err := store.Prune(ctx, s.db, log.Kind, func(r store.Record) bool {
		e, err := log.Decode(r)
		return err == nil && time.Since(e.Value.At) > s.settings.AuditLifetime
	})
	return err
}
