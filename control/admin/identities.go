package admin

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
)

// Identities is the part of a [Backend] that is about operators' certificates.
type Identities interface {
	// RevokeIdentity has an operator's certificate refused, by its serial number in hexadecimal.
	RevokeIdentity(ctx context.Context, serial string) (Identity, error)
}

// An Identity is an operator's certificate.
type Identity struct {
	Serial string `json:"serial"`
}

var serialForm = regexp.MustCompile(`^[0-9a-f]{1,40}$`)

// RevokeIdentity has an operator's certificate refused, at all control planes.
func (c *Client) RevokeIdentity(ctx context.Context, serial string) (i Identity, err error) {
	err = c.call(ctx, http.MethodDelete, "/v1/identities/"+url.PathEscape(serial), nil, &i)
	return i, err
}

func (h handler) revokeIdentity(w http.ResponseWriter, r *http.Request) {
	serial := r.PathValue("serial")
	if !serialForm.MatchString(serial) {
		h.answer(w, r, nil, Refuse(http.StatusBadRequest, errors.New("serial: want a serial number in hexadecimal")))
		return
	}
	v, err := h.RevokeIdentity(r.Context(), serial)
	h.answer(w, r, v, err)
}
