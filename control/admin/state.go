package admin

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/intramesh/mesh/control/store"
)

// State is the part of a [Backend] that tells how things are.
type State interface {
	// Members tells who is there, by what all replicas know.
	Members(ctx context.Context) ([]Member, error)
	// Status tells how far the current rules have got.
	Status(ctx context.Context) (Status, error)
	// Audit returns the newest entries of the audit log, at most n, the oldest of them first.
	Audit(ctx context.Context, n int) ([]store.AuditEntry, error)
}

// A Status tells how far the current rules have got.
type Status struct {
	// Version is the current one.
	Version uint64 `json:"version"`
	// Members is how many there are, without control planes; Current how many of them enforce Version.
	Members int `json:"members"`
	Current int `json:"current"`
	// Behind are the first of those that do not, at most 100.
	Behind []Member `json:"behind,omitempty"`
	// Replicas are the control planes on this store, the one that was asked first.
	Replicas []Replica `json:"replicas"`
}

// maxBehind bounds Status.Behind.
const maxBehind = 100

// A Replica is a control plane.
type Replica struct {
	// Addr is where it takes members' connections.
	Addr string `json:"addr"`
	// Version is of the rules that it hands out, and Members how many of them ask it.
	Version uint64 `json:"version"`
	Members int    `json:"members"`
	// Problem says why it could not be asked. What only it knows is not in the status then.
	Problem string `json:"problem,omitempty"`
}

// NewStatus counts.
func NewStatus(version uint64, members []Member, replicas []Replica, control string) Status {
	s := Status{Version: version, Replicas: replicas}
	for _, m := range members {
		switch {
		case m.Service == control:
			continue
		case m.Rules >= version:
			s.Current++
		case len(s.Behind) < maxBehind:
			s.Behind = append(s.Behind, m)
		}
		s.Members++
	}
	return s
}

// Done reports whether all members and control planes have the current rules.
func (s Status) Done() bool {
	for _, r := range s.Replicas {
		if r.Problem == "" && r.Version < s.Version {
			return false
		}
	}
	return s.Current == s.Members
}

// String is one line: "v42: at 998 of 1000 members, 2 behind: …".
func (s Status) String() string {
	line := fmt.Sprintf("v%d: at %d of %d members", s.Version, s.Current, s.Members)
	behind := s.Members - s.Current
	if behind == 0 {
		return line
	}
	var names []string
	for _, m := range s.Behind[:min(len(s.Behind), 3)] {
		names = append(names, m.Service+" "+m.Instance)
	}
	if behind > len(names) {
		names = append(names, "…")
	}
	return fmt.Sprintf("%s, %d behind: %s", line, behind, strings.Join(names, ", "))
}

// Members tells who is there.
func (c *Client) Members(ctx context.Context) (m []Member, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/members", nil, &m)
	return m, err
}

// Status tells how far the current rules have got.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// waitEvery is how often Wait asks.
const waitEvery = 250 * time.Millisecond

// Wait asks for the status until it is done; progress, if it is not nil, gets each that differs from the one before.
// When ctx ends first it returns the last one and ctx's error.
func (c *Client) Wait(ctx context.Context, progress func(Status)) (s Status, err error) {
	tick := time.NewTicker(waitEvery)
	defer tick.Stop()
	last := ""
	for {
		next, err := c.Status(ctx)
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
		if err != nil {
			return s, err
		}
		s = next
		if line := s.String(); line != last && progress != nil {
			progress(s)
			last = line
		}
		if s.Done() {
			return s, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
}

// Audit returns the newest entries of the audit log, at most n, the oldest of them first.
func (c *Client) Audit(ctx context.Context, n int) (all []store.AuditEntry, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/audit?n="+strconv.Itoa(n), nil, &all)
	return all, err
}

func (h handler) members(w http.ResponseWriter, r *http.Request) {
	v, err := h.Members(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) status(w http.ResponseWriter, r *http.Request) {
	v, err := h.Status(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) audit(w http.ResponseWriter, r *http.Request) {
	if n, ok := h.number(w, r, "n", r.URL.Query().Get("n")); ok {
		v, err := h.Audit(r.Context(), int(min(n, 1<<16)))
		h.answer(w, r, v, err)
	}
}
