package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/ca"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/policy"
)

type endpoint = discovery.Endpoint

// rotate keeps the CA at what the store says, and takes a rotation that is under way from one phase to the next, until
// ctx is done. Every replica does; the store lets one of them take each step.
func (s *Server) rotate(ctx context.Context) {
	watch := s.db.Watch(ctx, ca.AuthoritiesKind)
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	active := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-watch:
		case <-tick.C:
			if !active {
				continue
			}
		}
		state, revision, err := s.loadAuthorities(ctx)
		if err == nil {
			active = state.Rotation != nil
			if active {
				err = s.advance(ctx, state, revision)
			}
		} else {
			active = true // try again
		}
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the rotation of the root does not go on", "error", err)
		}
	}
}

// advance takes the next step if its time has come.
func (s *Server) advance(ctx context.Context, state authorityState, revision uint64) error {
	if err := s.writeReport(ctx, state, revision); err != nil {
		return err
	}
	t, err := s.count(ctx, state.Rotation.Since, revision)
	if err != nil || len(t.waiting) > 0 {
		return err
	}
	r := *state.Rotation
	switch {
	case r.Phase == admin.PhaseAdding:
		state.Active = len(state.Trusted) - 1
		r.Phase, r.Since = admin.PhaseIssuing, time.Now().UTC()
		state.Rotation = &r
		return s.step(ctx, state, revision, "issue by the new root")
	case r.RetireAfter.IsZero():
		// Only now is it sure that no replica issues by the old one.
		r.RetireAfter = time.Now().UTC()
		if r.Grace != nil {
			r.RetireAfter = r.RetireAfter.Add(*r.Grace)
		} else if r.RetireAfter, err = s.ca.LastExpiry(ctx, state.Trusted[:len(state.Trusted)-1]); err != nil {
			return err
		}
		state.Rotation = &r
		return s.step(ctx, state, revision, "all members have certificates by the new root")
	case time.Now().After(r.RetireAfter):
		for _, old := range state.Trusted[:len(state.Trusted)-1] {
			state.Former = append(state.Former, old.Root)
		}
		state.Trusted, state.Active, state.Rotation = state.Trusted[len(state.Trusted)-1:], 0, nil
		return s.step(ctx, state, revision, "retire the old root")
	}
	return nil
}

// step stores a state and tells members of it, both or none, unless another replica was first.
func (s *Server) step(ctx context.Context, state authorityState, revision uint64, what string) error {
	tell := policy.Authorities{}
	for i, t := range state.Trusted {
		root, intermediate := t.Fingerprints()
		tell.Roots = append(tell.Roots, root)
		if i == state.Active {
			tell.Issuer = intermediate
		}
	}
	raw, err := json.Marshal(tell)
	if err != nil {
		return err
	}
	op, err := s.authorities().Op(authoritiesKey, state, revision)
	if err != nil {
		return err
	}
	r, err := s.rules.Apply(ctx, store.Edit{
		Attach: map[string]json.RawMessage{attachedAuthorities: raw}, Action: "ca rotate: " + what,
		Also: []store.Op{op, store.Audit(ctx, "ca rotate", what, tell.Roots[len(tell.Roots)-1])},
	})
	if conflict, ok := errors.AsType[*store.ConflictError](err); ok && conflict.Kind == ca.AuthoritiesKind {
		return nil
	}
	if err != nil {
		return err
	}
	s.log.InfoContext(ctx, "rotation of the root", "step", what, "rules", r.Version)
	if _, _, err := s.loadAuthorities(ctx); err != nil {
		return err
	}
	return s.pub.publish()
}

// Rotate begins to replace the root.
func (s operator) Rotate(ctx context.Context, q admin.Rotate) (admin.Authorities, error) {
	if err := s.embedded(); err != nil {
		return admin.Authorities{}, err
	}
	state, revision, err := s.loadAuthorities(ctx)
	if err != nil {
		return admin.Authorities{}, err
	}
	if state.Rotation != nil {
		return admin.Authorities{}, admin.Refuse(http.StatusConflict, errors.New("a rotation is under way: see mesh ca status"))
	}
	if q.Grace != nil && *q.Grace < 0 {
		return admin.Authorities{}, admin.Refuse(http.StatusBadRequest, fmt.Errorf("grace %v is negative", *q.Grace))
	}
	var next ca.Issuer
	made := q.Root+q.Intermediate+q.Key+q.KeyURI == ""
	if made {
		next, err = s.ca.NewIssuer()
	} else if next, err = s.ca.Import(ca.Brought{Root: []byte(q.Root), Intermediate: []byte(q.Intermediate), Key: []byte(q.Key), KeyURI: q.KeyURI}); err != nil {
		err = admin.Refuse(http.StatusBadRequest, err)
	}
	if err != nil {
		return admin.Authorities{}, err
	}
	now := time.Now().UTC()
	state.Trusted = append(state.Trusted, next)
	state.Rotation = &rotation{Phase: admin.PhaseAdding, Started: now, Since: now, By: store.ActorFrom(ctx), Grace: q.Grace}
	err = s.step(ctx, state, revision, "add a new root")
	if now, _, lerr := s.authorities().Get(ctx, authoritiesKey); made && lerr == nil && !now.Has(next) {
		err = errors.Join(err, s.ca.ForgetRootKey(next))
	}
	if err != nil {
		return admin.Authorities{}, err
	}
	return s.Authorities(ctx)
}

// AbortRotation takes the new root back, which nobody needs yet.
func (s operator) AbortRotation(ctx context.Context) (admin.Authorities, error) {
	if err := s.embedded(); err != nil {
		return admin.Authorities{}, err
	}
	state, revision, err := s.loadAuthorities(ctx)
	if err != nil {
		return admin.Authorities{}, err
	}
	if state.Rotation == nil || state.Rotation.Phase != admin.PhaseAdding {
		return admin.Authorities{}, admin.Refuse(http.StatusConflict, errors.New("there is no rotation that could be given up: certificates by the new root are out, or none is under way"))
	}
	last := len(state.Trusted) - 1
	gone := state.Trusted[last]
	state.Trusted, state.Rotation = state.Trusted[:last], nil
	if err := s.step(ctx, state, revision, "give up"); err != nil {
		return admin.Authorities{}, err
	}
	if err := s.ca.ForgetRootKey(gone); err != nil {
		return admin.Authorities{}, err
	}
	return s.Authorities(ctx)
}

// Authorities tells how far it is.
func (s operator) Authorities(ctx context.Context) (a admin.Authorities, err error) {
	if s.ca.External() {
		return s.externalAuthorities(), nil
	}
	state, revision, err := s.loadAuthorities(ctx)
	if err != nil {
		return a, err
	}
	for i, t := range state.Trusted {
		root, intermediate := t.Fingerprints()
		a.Trusted = append(a.Trusted, admin.Issuer{Root: root, Intermediate: intermediate, Expires: t.Expires(), Active: i == state.Active})
	}
	r := state.Rotation
	if r == nil {
		return a, nil
	}
	t, err := s.count(ctx, r.Since, revision)
	if err != nil {
		return a, err
	}
	a.Rotation = &admin.Rotation{
		Phase: r.Phase, From: a.Trusted[0].Root, To: a.Trusted[len(a.Trusted)-1].Root, Started: r.Started, Since: r.Since, By: r.By,
		RetireAfter: r.RetireAfter, Members: t.members, Ready: t.ready, Waiting: t.waiting[:min(len(t.waiting), maxWaiting)],
	}
	return a, nil
}
