package control

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

// attachedAuthorities is where members are told which roots there are, beside the rules.
const attachedAuthorities = "authorities"

// announced is what members are told, nil when there has been no rotation.
func announced(r store.Rules) (a *policy.Authorities, err error) {
	if raw := r.Attached[attachedAuthorities]; raw != nil {
		a = new(policy.Authorities)
		err = json.Unmarshal(raw, a)
	}
	return a, err
}

// authorityState is the certificate authority's part of the store: one record, which changes together with what
// members are told.
type authorityState struct {
	ca.Authorities
	Rotation *rotation `json:"rotation,omitempty"`
}

// rotation is one under way.
type rotation struct {
	Phase       string         `json:"phase"`
	Started     time.Time      `json:"started"`
	Since       time.Time      `json:"since"`
	By          store.Actor    `json:"by"`
	Grace       *time.Duration `json:"grace,omitempty"`
	RetireAfter time.Time      `json:"retire_after,omitzero"`
}

const authoritiesKey = "current"

func (s *Server) authorities() store.Table[authorityState] {
	return store.Table[authorityState]{DB: s.db, Kind: ca.AuthoritiesKind}
}

// loadAuthorities has the CA work with what the store says, and returns it with its revision: [store.Absent] before the
// first rotation.
func (s *Server) loadAuthorities(ctx context.Context) (authorityState, uint64, error) {
	state, revision, err := s.authorities().Get(ctx, authoritiesKey)
	if errors.Is(err, store.ErrNotFound) {
		return authorityState{Authorities: *s.ca.Current()}, store.Absent, nil
	}
	if err != nil || revision == s.using.Load() {
		return state, revision, err
	}
	if err := s.ca.Use(&state.Authorities); err != nil {
		return state, revision, err
	}
	s.using.Store(revision)
	return state, revision, nil
}

// trustReport is what one replica knows of the members that ask it for rules. It is written while a rotation is
// under way.
type trustReport struct {
	At time.Time `json:"at"`
	// Revision is that of the authorities which the replica works with.
	Revision uint64 `json:"revision"`
	// Ready are instances that have what the phase is about, Behind those that have not, with their services.
	Ready  []string `json:"ready"`
	Behind []string `json:"behind,omitempty"`
}

const (
	reportEvery = time.Second
	// reportLife is how old a report may be that is believed; a replica that has been silent for replicaSilent is taken for
	// gone, and its members for somebody else's.
	reportLife    = 10 * time.Second
	replicaSilent = 3 * beatEvery
)

func (s *Server) reports() store.Table[trustReport] {
	return store.Table[trustReport]{DB: s.db, Kind: store.KindTrust}
}

// ready reports whether a member has what a phase is about.
func (q poll) ready(a authorityState) bool {
	newest, err := a.Newest()
	if err != nil {
		return false
	}
	if a.Rotation.Phase == admin.PhaseAdding {
		return slices.Contains(q.roots, newest.Root)
	}
	return q.issuer == newest.Intermediate
}

func (s *Server) writeReport(ctx context.Context, a authorityState, revision uint64) error {
	r := trustReport{At: time.Now().UTC(), Revision: revision}
	for _, q := range s.polls.recent() {
		if q.service == wire.ControlService {
			continue
		}
		if q.ready(a) {
			r.Ready = append(r.Ready, q.instance)
		} else {
			r.Behind = append(r.Behind, q.service+" "+q.instance)
		}
	}
	op, err := s.reports().Op(s.Addresses().CA, r, 0)
	if err == nil {
		_, err = s.db.Commit(ctx, op)
	}
	return err
}

// tally is how far a phase is.
type tally struct {
	members, ready int
	waiting        []string
}

const maxWaiting = 20

// count adds up what all replicas report. Whoever is in the gossip pool and has told nobody is waited for, too.
func (s *Server) count(ctx context.Context, since time.Time, revision uint64) (t tally, err error) {
	ready := make(map[string]bool)
	behind := make(map[string]string)
	fresh := make(map[string]bool)
	for e, err := range s.reports().All(ctx) {
		if err != nil {
			return t, err
		}
		r := e.Value
		if time.Since(r.At) > reportLife || r.At.Before(since) || r.Revision != revision {
			continue
		}
		fresh[e.Key] = true
		for _, i := range r.Ready {
			ready[i] = true
		}
		for _, b := range r.Behind {
			behind[b[max(0, lastSpace(b)+1):]] = b
		}
	}
	for e, err := range s.replicas.table.All(ctx) {
		if err != nil {
			return t, err
		}
		if !fresh[e.Key] && time.Since(e.Value.Seen) < replicaSilent {
			t.waiting = append(t.waiting, "the control plane at "+e.Key)
		}
	}
	for _, g := range s.gossip.Members() {
		isControl := slices.ContainsFunc(g.Endpoints, func(e endpoint) bool { return e.Service == wire.ControlService })
		if !g.Self && !isControl && !ready[g.Instance] && behind[g.Instance] == "" {
			behind[g.Instance] = "member " + g.Instance + " (has not reported)"
		}
	}
	t.members, t.ready = len(ready)+len(behind), len(ready)
	for i, b := range behind {
		if ready[i] { // it went from one replica to another
			t.members--
		}
		t.waiting = append(t.waiting, b)
	}
	slices.Sort(t.waiting)
	return t, nil
}

func lastSpace(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == ' ' {
			return i
		}
	}
	return -1
}
