package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/intramesh/mesh/control/store"
)

// CA is the part of a [Backend] that is about the certificate authority's roots.
type CA interface {
	// Authorities tells what is trusted, and how far a rotation is.
	Authorities(ctx context.Context) (Authorities, error)
	// Rotate begins to replace the root.
	Rotate(ctx context.Context, q Rotate) (Authorities, error)
	// AbortRotation gives up a rotation, as long as nothing was issued by the new root.
	AbortRotation(ctx context.Context) (Authorities, error)
}

// Rotate says what to replace the root with.
type Rotate struct {
	// Grace is how long the old root is trusted after all members have certificates by the new one, in nanoseconds.
	// Nil means until the last certificate by the old one has expired, so that no connection is cut.
	Grace *time.Duration `json:"grace,omitempty"`
	// Root, Intermediate and Key are PEM, of an intermediate that was made elsewhere; all empty, the control plane makes
	// them.
	Root         string `json:"root,omitempty"`
	Intermediate string `json:"intermediate,omitempty"`
	Key          string `json:"key,omitempty"`
	// KeyURI names the key in a KMS instead, as smallstep's tools do.
	KeyURI string `json:"key_uri,omitempty"`
}

// The phases of a rotation.
const (
	// PhaseAdding: the new root is handed out, until all members report that they trust it.
	PhaseAdding = "adding"
	// PhaseIssuing: certificates are by the new root, until all members report that they have one, and a grace after.
	PhaseIssuing = "issuing"
)

// Authorities are the roots that members trust, the oldest first.
type Authorities struct {
	Trusted []Issuer `json:"trusted"`
	// Rotation is nil when there is none under way.
	Rotation *Rotation `json:"rotation,omitempty"`
}

// An Issuer is a root with its intermediate, by their SHA-256 in hex.
type Issuer struct {
	Root         string    `json:"root"`
	Intermediate string    `json:"intermediate"`
	Expires      time.Time `json:"expires"`
	// Active is set for the one that signs.
	Active bool `json:"active,omitempty"`
}

// A Rotation replaces the root From by To.
type Rotation struct {
	Phase   string      `json:"phase"`
	From    string      `json:"from"`
	To      string      `json:"to"`
	Started time.Time   `json:"started"`
	Since   time.Time   `json:"since"` // of the phase
	By      store.Actor `json:"by"`
	// RetireAfter is when the old root goes at the earliest; zero before it is known.
	RetireAfter time.Time `json:"retire_after,omitzero"`
	// Members is how many there are, Ready how many of them have what the phase is about.
	Members int `json:"members"`
	Ready   int `json:"ready"`
	// Waiting names some of the others, and what else is waited for.
	Waiting []string `json:"waiting,omitempty"`
}

// Authorities tells what is trusted, and how far a rotation is.
func (c *Client) Authorities(ctx context.Context) (a Authorities, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/ca", nil, &a)
	return a, err
}

// Rotate begins to replace the root. The control plane goes on by itself, also after a restart.
func (c *Client) Rotate(ctx context.Context, q Rotate) (a Authorities, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/ca/rotation", q, &a)
	return a, err
}

// AbortRotation gives up a rotation in its first phase.
func (c *Client) AbortRotation(ctx context.Context) (a Authorities, err error) {
	err = c.call(ctx, http.MethodDelete, "/v1/ca/rotation", nil, &a)
	return a, err
}

func (h handler) authorities(w http.ResponseWriter, r *http.Request) {
	v, err := h.Authorities(r.Context())
	h.answer(w, r, v, err)
}

func (h handler) rotate(w http.ResponseWriter, r *http.Request) {
	var q Rotate
	if !h.read(w, r, &q) {
		return
	}
	v, err := h.Rotate(r.Context(), q)
	h.answer(w, r, v, err)
}

func (h handler) abortRotation(w http.ResponseWriter, r *http.Request) {
	v, err := h.AbortRotation(r.Context())
	h.answer(w, r, v, err)
}
