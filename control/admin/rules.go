package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

// Rules is the part of a [Backend] that is about rules.
type Rules interface {
	// Rules returns all documents.
	Rules(ctx context.Context) (store.Rules, error)
	// Apply adds and replaces documents, all or none.
	Apply(ctx context.Context, docs []policy.Document, o ApplyOptions) (store.Result, error)
	// Delete removes documents, all or none. base is as in [ApplyOptions].
	Delete(ctx context.Context, names []string, base uint64) (store.Result, error)
	// History returns the newest versions, the newest first, at most n.
	History(ctx context.Context, n int) ([]store.Version, error)
	// Version returns the documents of one version.
	Version(ctx context.Context, version uint64) (store.Rules, error)
	// Rollback makes the documents of an earlier version current, as a new version.
	Rollback(ctx context.Context, version, base uint64) (store.Result, error)
	// Explain decides a request and tells why.
	Explain(ctx context.Context, q Question) (policy.Explanation, error)
}

// ApplyOptions say how to apply documents.
type ApplyOptions struct {
	// Base is the version that the change was made from: status 409, and what changed since, when it is not the
	// current one. 0 means whatever is current.
	Base uint64
	// Replace deletes the documents that are not given.
	Replace bool
}

// Rules returns all documents and their version.
func (c *Client) Rules(ctx context.Context) (r store.Rules, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/rules", nil, &r)
	return r, err
}

// Apply adds and replaces documents, all or none. When it returns without error, the change
// is stored.
func (c *Client) Apply(ctx context.Context, docs []policy.Document, o ApplyOptions) (r store.Result, err error) {
	q := baseQuery(o.Base)
	if o.Replace {
		q.Set("replace", "true")
	}
	err = c.call(ctx, http.MethodPost, "/v1/rules?"+q.Encode(), docs, &r)
	return r, err
}

// Delete removes documents by name, all or none.
func (c *Client) Delete(ctx context.Context, names []string, base uint64) (r store.Result, err error) {
	q := baseQuery(base)
	q["name"] = names
	err = c.call(ctx, http.MethodDelete, "/v1/rules?"+q.Encode(), nil, &r)
	return r, err
}

// History returns the newest versions, the newest first.
func (c *Client) History(ctx context.Context, n int) (all []store.Version, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/history?n="+strconv.Itoa(n), nil, &all)
	return all, err
}

// Version returns the documents of one version.
func (c *Client) Version(ctx context.Context, version uint64) (r store.Rules, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/history/"+strconv.FormatUint(version, 10), nil, &r)
	return r, err
}

// Rollback makes the documents of an earlier version current, as a new version.
func (c *Client) Rollback(ctx context.Context, version, base uint64) (r store.Result, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/history/"+strconv.FormatUint(version, 10)+"/rollback?"+baseQuery(base).Encode(), nil, &r)
	return r, err
}

// Explain decides a request by the current rules, and tells why.
func (c *Client) Explain(ctx context.Context, q Question) (e policy.Explanation, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/explain", q, &e)
	return e, err
}

func baseQuery(base uint64) url.Values {
	q := url.Values{}
	if base != 0 {
		q.Set("base", strconv.FormatUint(base, 10))
	}
	return q
}

func (h handler) rules(w http.ResponseWriter, r *http.Request) {
	v, err := h.Rules(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) apply(w http.ResponseWriter, r *http.Request) {
	var o ApplyOptions
	var ok bool
	if o.Base, ok = h.base(w, r); !ok {
		return
	}
	switch v := r.URL.Query().Get("replace"); v {
	case "", "false":
	case "true":
		o.Replace = true
	default:
		h.answer(w, r, nil, Refuse(http.StatusBadRequest, errors.New("replace: want true or false")))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxBundleBytes))
	if err != nil {
		h.answer(w, r, nil, Refuse(http.StatusBadRequest, err))
		return
	}
	docs, err := policy.Parse("", body)
	if err != nil {
		h.answer(w, r, nil, Refuse(http.StatusBadRequest, err))
		return
	}
	v, err := h.Apply(r.Context(), docs, o)
	h.answer(w, r, v, err)
}

func (h handler) delete(w http.ResponseWriter, r *http.Request) {
	if base, ok := h.base(w, r); ok {
		v, err := h.Delete(r.Context(), r.URL.Query()["name"], base)
		h.answer(w, r, v, err)
	}
}

func (h handler) history(w http.ResponseWriter, r *http.Request) {
	if n, ok := h.number(w, r, "n", r.URL.Query().Get("n")); ok {
		v, err := h.History(r.Context(), int(min(n, 1<<16)))
		h.answer(w, r, v, err)
	}
}

func (h handler) version(w http.ResponseWriter, r *http.Request) {
	if n, ok := h.number(w, r, "version", r.PathValue("version")); ok {
		v, err := h.Version(r.Context(), n)
		h.answer(w, r, v, err)
	}
}

func (h handler) rollback(w http.ResponseWriter, r *http.Request) {
	n, ok := h.number(w, r, "version", r.PathValue("version"))
	if !ok {
		return
	}
	if base, ok := h.base(w, r); ok {
		v, err := h.Rollback(r.Context(), n, base)
		h.answer(w, r, v, err)
	}
}

func (h handler) explain(w http.ResponseWriter, r *http.Request) {
	var q Question
	if !h.read(w, r, &q) {
		return
	}
	v, err := h.Explain(r.Context(), q)
	h.answer(w, r, v, err)
}

// base is the query's, 0 without one.
func (h handler) base(w http.ResponseWriter, r *http.Request) (uint64, bool) {
	if !r.URL.Query().Has("base") {
		return 0, true
	}
	return h.number(w, r, "base", r.URL.Query().Get("base"))
}

func (h handler) number(w http.ResponseWriter, r *http.Request, name, text string) (uint64, bool) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		h.answer(w, r, nil, Refuse(http.StatusBadRequest, errors.New(name+": want a number")))
	}
	return n, err == nil
}
