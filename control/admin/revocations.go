package admin

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
)

// Revocations is the part of a [Backend] that takes trust away.
type Revocations interface {
	// Revoke takes trust away from a service, an instance or a certificate.
	Revoke(ctx context.Context, q Revoke) (Revoked, error)
	// Revocations lists what is revoked.
	Revocations(ctx context.Context) ([]Revocation, error)
	// Unrevoke takes back what was revoked under a name; [store.ErrNotFound] when that is nothing.
	Unrevoke(ctx context.Context, name string) (Revoked, error)
}

// Revoke says what to revoke: exactly one of Service, Instance and Serial, or Target to find out which it is.
type Revoke struct {
	Target string `json:"target,omitempty"`
	// Service has every certificate revoked that the service has until now.
	Service string `json:"service,omitempty"`
	// Instance has the certificate revoked that a member shows, by its name in the pool.
	Instance string `json:"instance,omitempty"`
	// Serial has one certificate revoked, by its serial number in hexadecimal or decimal.
	Serial string `json:"serial,omitempty"`
	// Block keeps anybody from enrolling as the service, until it is taken back.
	Block bool `json:"block,omitempty"`
	// Reason is for people, those whom members tell it too. It may be empty.
	Reason string `json:"reason,omitempty"`
}

// Revoked is what a change revoked or took back, and the version of the rules in which members hear of it.
type Revoked struct {
	Version     uint64       `json:"version"`
	Revocations []Revocation `json:"revocations"`
}

// A Revocation is what members are told, and what it was made of.
type Revocation struct {
	// Name is "service payments", "instance abc" or "serial 1f…"; several have the same when a certificate
	// was renewed.
	Name string      `json:"name"`
	At   time.Time   `json:"at"`
	By   store.Actor `json:"by"`
	// Block is set when nobody can enrol as the service.
	Block bool `json:"block,omitempty"`
	policy.Revocation
}

// Revoke takes trust away. When it returns, no replica renews what was revoked, and members are being told.
func (c *Client) Revoke(ctx context.Context, q Revoke) (r Revoked, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/revocations", q, &r)
	return r, err
}

// Revocations lists what is revoked, the oldest first.
func (c *Client) Revocations(ctx context.Context) (all []Revocation, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/revocations", nil, &all)
	return all, err
}

// Unrevoke takes back what [Revocation].Name names.
func (c *Client) Unrevoke(ctx context.Context, name string) (r Revoked, err error) {
	err = c.call(ctx, http.MethodDelete, "/v1/revocations?"+url.Values{"name": {name}}.Encode(), nil, &r)
	return r, err
}

func (h handler) revoke(w http.ResponseWriter, r *http.Request) {
	var q Revoke
	if !h.read(w, r, &q) {
		return
	}
	v, err := h.Revoke(r.Context(), q)
	h.answer(w, r, v, err)
}

func (h handler) revocations(w http.ResponseWriter, r *http.Request) {
	v, err := h.Revocations(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) unrevoke(w http.ResponseWriter, r *http.Request) {
	v, err := h.Unrevoke(r.Context(), r.URL.Query().Get("name"))
	h.answer(w, r, v, err)
}
