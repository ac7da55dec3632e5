package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/internal/names"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// attachedRevocations is where revocations are, beside the rules: members get both in one bundle.
const attachedRevocations = "revocations"

func revocationsOf(r store.Rules) (all []admin.Revocation, err error) {
	if raw := r.Attached[attachedRevocations]; raw != nil {
		err = json.Unmarshal(raw, &all)
	}
	return all, err
}

// bundled are those that members need: not the ones that had expired when the version was made, so that every
// replica signs the same.
func bundled(r store.Rules) ([]policy.Revocation, error) {
	all, err := revocationsOf(r)
	if err != nil {
		return nil, err
	}
	var list []policy.Revocation
	for _, v := range all {
		if v.Expires.After(r.At) {
			list = append(list, v.Revocation)
		}
	}
	return list, nil
}

var serialForm = regexp.MustCompile(`^[0-9A-Fa-f:]{16,60}$`)

// Revoke first has the certificate authority refuse renewal, then tells the members.
func (s operator) Revoke(ctx context.Context, q admin.Revoke) (admin.Revoked, error) {
	q, err := s.resolve(ctx, q)
	if err != nil {
		return admin.Revoked{}, err
	}
	entry := admin.Revocation{At: time.Now().UTC().Truncate(time.Second), By: store.ActorFrom(ctx), Block: q.Block, Revocation: policy.Revocation{Reason: q.Reason}}
	var entries []admin.Revocation
	var serials []*big.Int
	if q.Service != "" {
		entry.Name = "service " + q.Service
		id, err := spiffeid.FromPath(s.ca.TrustDomain(), "/"+q.Service)
		if err != nil {
			return admin.Revoked{}, err
		}
		entry.ID = id.String()
		if entry.IssuedBefore, entry.Expires, err = s.ca.RevokeService(ctx, q.Service, q.Block); err != nil {
			return admin.Revoked{}, err
		}
		entries = append(entries, entry)
	} else {
		entry.Name = "serial " + q.Serial
		if q.Instance != "" {
			entry.Name = "instance " + q.Instance
		}
		n, ok := new(big.Int).SetString(q.Serial, 16)
		if !ok {
			return admin.Revoked{}, fmt.Errorf("serial number %q", q.Serial)
		}
		all, err := s.ca.RevokeSerial(ctx, n)
		if err != nil {
			return admin.Revoked{}, err
		}
		for _, c := range all {
			entry.Serial, entry.Expires = c.Serial.Text(16), c.Expires
			serials = append(serials, c.Serial)
			entries = append(entries, entry)
		}
	}
	r, err := s.editRevocations(ctx, "revoke "+entry.Name, func(all []admin.Revocation) ([]admin.Revocation, []store.Op, error) {
		all = slices.DeleteFunc(all, func(old admin.Revocation) bool {
			return slices.ContainsFunc(entries, func(e admin.Revocation) bool { return e.Name == old.Name && e.Serial == old.Serial })
		})
		return append(all, entries...), nil, nil
	})
	if err == nil {
		err = s.ca.RevokeOutside(ctx, q.Service, serials)
	}
	return admin.Revoked{Version: r.Version, Revocations: entries}, err
}

// resolve finds out what a target is, and turns an instance into the serial number of its certificate.
func (s operator) resolve(ctx context.Context, q admin.Revoke) (admin.Revoke, error) {
	bad := func(format string, args ...any) (admin.Revoke, error) {
		return q, admin.Refuse(http.StatusBadRequest, fmt.Errorf(format, args...))
	}
	given := 0
	for _, v := range []string{q.Target, q.Service, q.Instance, q.Serial} {
		given += min(1, len(v))
	}
	if given != 1 {
		return bad("want exactly one of a service, an instance and a serial number")
	}
	members, err := s.Members(ctx)
	if err != nil {
		return q, err
	}
	isInstance := func(m admin.Member) bool { return m.Instance == q.Target }
	switch {
	case q.Target == "":
	case slices.ContainsFunc(members, isInstance):
		q.Instance = q.Target
	case serialForm.MatchString(q.Target):
		q.Serial = q.Target
	default:
		q.Service = q.Target
	}
	switch {
	case q.Service != "":
		if err := names.CheckOrdinary(q.Service); err != nil {
			return bad("%w", err)
		}
		return q, nil
	case q.Block:
		return bad("only a service can be kept from enrolling")
	case q.Instance != "":
		i := slices.IndexFunc(members, func(m admin.Member) bool { return m.Instance == q.Instance && m.Serial != "" })
		if i < 0 {
			return bad("no member %q has asked this control plane for rules, so its certificate is not known: revoke its service, or the certificate by its serial number", q.Instance)
		}
		if strings.HasPrefix(members[i].Service, "mesh/") {
			return bad("%s is a control plane", q.Instance)
		}
		q.Serial = members[i].Serial
		return q, nil
	}
	if cert, ok := s.ca.Find(q.Serial); ok {
		q.Serial = cert.SerialNumber.Text(16)
		return q, nil
	}
	n, ok := new(big.Int).SetString(strings.ReplaceAll(q.Serial, ":", ""), 16)
	if !ok || n.Sign() <= 0 || n.BitLen() > 160 { // RFC 5280 section 4.1.2.2
		return bad("%q is not a serial number", q.Serial)
	}
	q.Serial = n.Text(16)
	return q, nil
}

// Revocations lists them.
func (s operator) Revocations(context.Context) ([]admin.Revocation, error) {
	all, err := revocationsOf(s.rules.Rules())
	if all == nil {
		all = []admin.Revocation{}
	}
	return all, err
}

// Unrevoke takes back, at members and at the certificate authority at once.
func (s operator) Unrevoke(ctx context.Context, name string) (admin.Revoked, error) {
	var gone []admin.Revocation
	r, err := s.editRevocations(ctx, "take back revocation of "+name, func(all []admin.Revocation) ([]admin.Revocation, []store.Op, error) {
		gone = nil
		var left []admin.Revocation
		var ops []store.Op
		for _, v := range all {
			service, isService := strings.CutPrefix(v.Name, "service ")
			if v.Name != name && (isService || strings.TrimPrefix(v.Name, "serial ") != name) && service != name {
				left = append(left, v)
				continue
			}
			gone = append(gone, v)
			if n, ok := new(big.Int).SetString(v.Serial, 16); ok {
				ops = append(ops, s.ca.Pardon(n, ""))
			} else {
				ops = append(ops, s.ca.Pardon(nil, service))
			}
		}
		if gone == nil {
			return nil, nil, fmt.Errorf("revocation of %q: %w", name, store.ErrNotFound)
		}
		return left, ops, nil
	})
	return admin.Revoked{Version: r.Version, Revocations: gone}, err
}

// maxEdits bounds how often a change that others get ahead of is made anew.
const maxEdits = 16

// editRevocations changes the list that goes with the rules, from the one that is current.
func (s operator) editRevocations(ctx context.Context, action string, change func([]admin.Revocation) ([]admin.Revocation, []store.Op, error)) (r store.Result, err error) {
	for range maxEdits {
		now := s.rules.Rules()
		var all []admin.Revocation
		if all, err = revocationsOf(now); err != nil {
			return r, err
		}
		var ops []store.Op
		if all, ops, err = change(slices.Clone(all)); err != nil {
			return r, s.changed(ctx, r, err)
		}
		raw, err := json.Marshal(all)
		if err != nil {
			return r, err
		}
		if len(all) == 0 {
			raw = nil
		}
		r, err = s.rules.Apply(ctx, store.Edit{Base: now.Version, Attach: map[string]json.RawMessage{attachedRevocations: raw}, Action: action, Also: ops})
		if _, stale := errors.AsType[*store.StaleError](err); stale {
			continue
		}
		if err == nil {
			s.log.InfoContext(ctx, action, "version", r.Version)
		}
		return r, s.changed(ctx, r, err)
	}
	return r, err
}

// sweepRevocations leaves out what has expired, which is a new version when there is any.
func (s operator) sweepRevocations(ctx context.Context) error {
	dead := func(v admin.Revocation) bool { return !v.Block && time.Now().After(v.Expires) }
	if all, err := revocationsOf(s.rules.Rules()); err != nil || !slices.ContainsFunc(all, dead) {
		return err
	}
	_, err := s.editRevocations(ctx, "revocations that have expired", func(all []admin.Revocation) ([]admin.Revocation, []store.Op, error) {
		return slices.DeleteFunc(all, dead), nil, nil
	})
	return err
}
