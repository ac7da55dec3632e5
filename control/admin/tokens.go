package admin

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/enrol"
)

// Tokens is the part of a [Backend] that is about join tokens.
type Tokens interface {
	// CreateToken makes a join token, and tells what else a process needs.
	CreateToken(ctx context.Context, spec enrol.Spec) (Created, error)
	// Tokens lists the join tokens, without their secrets.
	Tokens(ctx context.Context) ([]enrol.Token, error)
	// RevokeToken makes a join token useless.
	RevokeToken(ctx context.Context, id string) (enrol.Token, error)
	// Bootstrap tells what a process needs that enrols without a token.
	Bootstrap(ctx context.Context) (*mesh.Bootstrap, error)
}

// Created is a new join token. The value is in Bootstrap, and nowhere else.
type Created struct {
	Token     enrol.Token     `json:"token"`
	Bootstrap *mesh.Bootstrap `json:"bootstrap"`
}

// Token makes a token that enrols one process of service, once. A ttl of 0 means the control
// plane's default.
func (c *Client) Token(ctx context.Context, service string, ttl time.Duration) (*mesh.Bootstrap, error) {
	t, err := c.CreateToken(ctx, enrol.Spec{Services: []string{service}, Uses: 1, Lifetime: ttl})
	return t.Bootstrap, err
}

// CreateToken makes a join token, from the networks given or from all. A Lifetime of 0 means the control plane's
// default.
func (c *Client) CreateToken(ctx context.Context, spec enrol.Spec) (t Created, err error) {
	for i, p := range spec.From {
		if p.IsValid() {
			spec.From[i] = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()).Masked()
		}
	}
	err = c.call(ctx, http.MethodPost, "/v1/tokens", spec, &t)
	return t, err
}

// Tokens lists the join tokens, in the order of their making.
func (c *Client) Tokens(ctx context.Context) (all []enrol.Token, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/tokens", nil, &all)
	return all, err
}

// RevokeToken makes a join token useless. Processes that it let in stay in.
func (c *Client) RevokeToken(ctx context.Context, id string) (t enrol.Token, err error) {
	err = c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil, &t)
	return t, err
}

// Bootstrap returns what a process needs that enrols without a token. There is no secret in it.
func (c *Client) Bootstrap(ctx context.Context) (b *mesh.Bootstrap, err error) {
	b = new(mesh.Bootstrap)
	err = c.call(ctx, http.MethodGet, "/v1/bootstrap", nil, b)
	return b, err
}

func (h handler) createToken(w http.ResponseWriter, r *http.Request) {
	var spec enrol.Spec
	if !h.read(w, r, &spec) {
		return
	}
	v, err := h.CreateToken(r.Context(), spec)
	h.answer(w, r, v, err)
}

func (h handler) tokens(w http.ResponseWriter, r *http.Request) {
	v, err := h.Tokens(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) revokeToken(w http.ResponseWriter, r *http.Request) {
	v, err := h.RevokeToken(r.Context(), r.PathValue("id"))
	h.answer(w, r, v, err)
}

func (h handler) bootstrap(w http.ResponseWriter, r *http.Request) {
	v, err := h.Bootstrap(r.Context())
	h.answer(w, r, v, err)
}
