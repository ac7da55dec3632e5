package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// Keys is the part of a [Backend] that is about the gossip pool's keys. A key is changed without loss by InstallKey, then
// UseKey, then RemoveKey of the old one, each when all members have followed the one before.
type Keys interface {
	// Keys lists them, without their values.
	Keys(ctx context.Context) ([]Key, error)
	// InstallKey makes a key that members decrypt with.
	InstallKey(ctx context.Context) (Key, error)
	// UseKey has members encrypt with a key. Unless force is set it is refused while one of them does not have it.
	UseKey(ctx context.Context, id string, force bool) error
	// RemoveKey has members forget a key that is not in use. Unless force is set it is refused while one of them
	// still encrypts with it.
	RemoveKey(ctx context.Context, id string, force bool) error
}

// A Key is one of the gossip pool's.
type Key struct {
	// ID tells keys apart, and nothing about them.
	ID string `json:"id"`
	// Encrypts marks the one that members are to encrypt with; all decrypt.
	Encrypts bool `json:"encrypts"`
	// Members counts those who have said that they have the key, Encrypting those of them who encrypt with it.
	Members    int `json:"members"`
	Encrypting int `json:"encrypting"`
	// Missing are those who have said that they do not, each as its service and its instance.
	Missing []string `json:"missing,omitempty"`
}

// Keys lists the gossip pool's keys.
func (c *Client) Keys(ctx context.Context) (keys []Key, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/keys", nil, &keys)
	return keys, err
}

// InstallKey makes a key.
func (c *Client) InstallKey(ctx context.Context) (k Key, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/keys", nil, &k)
	return k, err
}

// UseKey has members encrypt with a key.
func (c *Client) UseKey(ctx context.Context, id string, force bool) error {
	return c.call(ctx, http.MethodPut, "/v1/keys/"+url.PathEscape(id)+"?force="+strconv.FormatBool(force), nil, new(struct{}))
}

// RemoveKey has members forget a key.
func (c *Client) RemoveKey(ctx context.Context, id string, force bool) error {
	return c.call(ctx, http.MethodDelete, "/v1/keys/"+url.PathEscape(id)+"?force="+strconv.FormatBool(force), nil, new(struct{}))
}

func (h handler) keys(w http.ResponseWriter, r *http.Request) {
	v, err := h.Keys(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) installKey(w http.ResponseWriter, r *http.Request) {
	v, err := h.InstallKey(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) useKey(w http.ResponseWriter, r *http.Request) {
	err := h.UseKey(r.Context(), r.PathValue("id"), r.URL.Query().Get("force") == "true")
	h.answer(w, r, struct{}{}, err)
}

func (h handler) removeKey(w http.ResponseWriter, r *http.Request) {
	err := h.RemoveKey(r.Context(), r.PathValue("id"), r.URL.Query().Get("force") == "true")
	h.answer(w, r, struct{}{}, err)
}
