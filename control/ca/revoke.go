package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/intramesh/mesh/control/internal/names"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/identity"
	"github.com/smallstep/certificates/logging"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A revocation at the CA stops renewal; members end what is in force by the signed rules. It is read from the
// store at each renewal, before and after the new certificate is made, so that it counts at every replica from the
// moment that it is stored.
type refusal struct {
	// Before refuses certificates of a service whose NotBefore is not after it.
	Before time.Time `json:"before,omitzero"`
	// Block refuses new certificates as well.
	Block bool `json:"block,omitempty"`
	// Expires is when the last certificate that this is about has expired; a block has no end.
	Expires time.Time `json:"expires,omitzero"`
}

const (
	refusedKind = store.KindCA + "refused" // "serial/DECIMAL" and "service/NAME"
	lineageKind = store.KindCA + "lineage" // the serial number of a renewed certificate, to that of the one before
)

func (c *CA) refused() store.Table[refusal] {
	return store.Table[refusal]{DB: c.cfg.DB, Kind: refusedKind}
}

func (c *CA) refusal(ctx context.Context, key string) (r refusal, err error) {
	r, _, err = c.refused().Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return r, nil
	}
	return r, err
}

// A RevokedError says that a certificate can't be renewed, or a service not be enrolled, because it was revoked.
type RevokedError struct {
	// What is "the certificate" or "service payments".
	What string
}

// Error says what was revoked.
func (e *RevokedError) Error() string { return e.What + " was revoked" }

// Admit returns a [*RevokedError] when nobody may enrol as a service.
func (c *CA) Admit(ctx context.Context, service string) error {
	r, err := c.refusal(ctx, "service/"+service)
	if err == nil && r.Block {
		err = &RevokedError{"service " + service}
	}
	return err
}

// checkRevoked returns a [*RevokedError] when a certificate of id was revoked.
func (c *CA) checkRevoked(ctx context.Context, id spiffeid.ID, leaf *x509.Certificate) error {
	r, err := c.refusal(ctx, "serial/"+leaf.SerialNumber.String())
	if err == nil && !r.Expires.IsZero() {
		return &RevokedError{"the certificate"}
	}
	if err != nil {
		return err
	}
	r, err = c.refusal(ctx, "service/"+identity.ServiceName(id))
	if err == nil && (r.Block || !leaf.NotBefore.After(r.Before)) {
		err = &RevokedError{"service " + identity.ServiceName(id)}
	}
	return err
}

// A Revoked certificate is one that [CA.RevokeSerial] revoked.
type Revoked struct {
	Serial *big.Int
	// Expires is its NotAfter, or a time after that when the CA does not know it.
	Expires time.Time
}

// RevokeSerial stops the certificate with this serial number from being renewed, and those that it was renewed into,
// which it returns with it. They stay valid until they expire, for whoever has not heard of it.
func (c *CA) RevokeSerial(ctx context.Context, serial *big.Int) ([]Revoked, error) {
	var all []Revoked
	next := []string{serial.String()}
	known := map[string]bool{next[0]: true}
	for len(next) > 0 {
		for _, s := range next {
			n, _ := new(big.Int).SetString(s, 10)
			r := Revoked{n, c.expires(s)}
			if err := c.put(ctx, "serial/"+s, refusal{Expires: r.Expires}); err != nil {
				return nil, err
			}
			all = append(all, r)
		}
		// Whoever renews one of these after now sees that it is refused; who did before has left a record.
		next = nil
		for e, err := range (store.Table[string]{DB: c.cfg.DB, Kind: lineageKind}).All(ctx) {
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			if known[e.Value] && !known[e.Key] {
				known[e.Key] = true
				next = append(next, e.Key)
			}
		}
	}
	return all, nil
}

// RevokeService stops every certificate that a service has until now from being renewed; with block, nobody can enrol
// as it either, until [CA.Pardon]. It returns which certificates are meant, those whose NotBefore is not
// after before, and when the last of them has expired.
func (c *CA) RevokeService(ctx context.Context, service string, block bool) (before, expires time.Time, err error) {
	before = time.Now().UTC().Add(-c.backdate()).Truncate(time.Second)
	expires = time.Now().Add(c.cfg.Lifetime + maxBackdate)
	id, err := names.Ordinary(c.td, service)
	if err != nil {
		return before, expires, fmt.Errorf("ca: %w", err)
	}
	for r, err := range c.cfg.DB.All(ctx, store.KindCA+"x509_certs") { // made when the lifetime was set to something else
		if err != nil {
			return before, expires, fmt.Errorf("ca: %w", err)
		}
		cert, err := x509.ParseCertificate(r.Value)
		if err != nil || len(cert.URIs) != 1 || cert.URIs[0].String() != id.String() {
			continue
		}
		if cert.NotAfter.After(expires) {
			expires = cert.NotAfter
		}
		if cert.NotBefore.After(before) {
			before = cert.NotBefore
		}
	}
	r := refusal{Before: before, Block: block, Expires: expires}
	return before, expires.UTC().Truncate(time.Second), c.put(ctx, "service/"+service, r)
}

func (c *CA) put(ctx context.Context, key string, r refusal) error {
	op, err := c.refused().Op(key, r, 0)
	if err == nil {
		_, err = c.cfg.DB.Commit(ctx, op)
	}
	if err != nil {
		return fmt.Errorf("ca: revoke: %w", err)
	}
	return nil
}

// Pardon returns what takes a revocation back, of a serial number or, when that is nil, of a service.
func (c *CA) Pardon(serial *big.Int, service string) store.Op {
	key := "service/" + service
	if serial != nil {
		key = "serial/" + serial.String()
	}
	return store.Op{Kind: refusedKind, Key: key}
}

// expires is when a certificate does, as far as the CA knows.
func (c *CA) expires(serial string) time.Time {
	if cert, err := c.db.GetCertificate(serial); err == nil {
		return cert.NotAfter.UTC()
	}
	return time.Now().UTC().Truncate(time.Second).Add(c.cfg.Lifetime + maxBackdate)
}

// Find returns a certificate that the CA has issued and not forgotten, by its serial number in hexadecimal, with or
// without colons, or in decimal.
func (c *CA) Find(serial string) (*x509.Certificate, bool) {
	for base, text := range map[int]string{10: serial, 16: strings.ReplaceAll(serial, ":", "")} {
		if n, ok := new(big.Int).SetString(text, base); ok && n.Sign() > 0 {
			if cert, err := c.db.GetCertificate(n.String()); err == nil {
				return cert, true
			}
		}
	}
	return nil, false
}

// heldAnswer keeps an answer back until it is known whether it may go out.
type heldAnswer struct {
	logging.ResponseLogger
	status int
	body   []byte
}

func (h *heldAnswer) WriteHeader(status int) { h.status = status }

func (h *heldAnswer) Write(b []byte) (int, error) {
	h.body = append(h.body, b...)
	return len(b), nil
}

// renewing lets next renew the certificate, notes into what, and refuses after all when it was revoked meanwhile.
func (c *CA) renewing(next http.HandlerFunc) func(http.ResponseWriter, *http.Request, spiffeid.ID) {
	return func(w http.ResponseWriter, r *http.Request, id spiffeid.ID) {
		h := &heldAnswer{ResponseLogger: logging.NewResponseLogger(w), status: http.StatusOK}
		next(h, r)
		if serial, ok := h.Fields()["serial"].(string); ok && h.status < http.StatusMultipleChoices {
			if err := c.noteRenewal(r.Context(), id, r.TLS.PeerCertificates[0], serial); err != nil {
				refuse(w, http.StatusUnauthorized, err)
				return
			}
		}
		w.WriteHeader(h.status)
		_, _ = w.Write(h.body) // the client is gone: nobody to tell
	}
}

func (c *CA) noteRenewal(ctx context.Context, id spiffeid.ID, old *x509.Certificate, serial string) error {
	op, err := (store.Table[string]{DB: c.cfg.DB, Kind: lineageKind}).Op(serial, old.SerialNumber.String(), 0)
	if err == nil {
		_, err = c.cfg.DB.Commit(ctx, op)
	}
	if err != nil {
		return fmt.Errorf("the renewal can't be stored: %w", err)
	}
	return c.checkRevoked(ctx, id, old)
}
