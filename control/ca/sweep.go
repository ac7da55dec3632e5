package ca

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/intramesh/mesh/control/store"
	"go.step.sm/crypto/jose"
)

// keepExpired is how long what has expired is remembered, so that a clock that is ahead for a while does not have
// used tokens forgotten that are valid again when it is set right.
const keepExpired = 30 * 24 * time.Hour

// Sweep forgets certificates, revocations and used tokens that expired more than 30 days ago.
func (c *CA) Sweep(ctx context.Context) error {
	before := time.Now().Add(-keepExpired)
	var gone []store.Op
	for r, err := range c.cfg.DB.All(ctx, store.KindCA+"x509_certs") {
		if err != nil {
			return err
		}
		if cert, err := x509.ParseCertificate(r.Value); err == nil && cert.NotAfter.Before(before) {
			gone = append(gone, store.Op{Kind: r.Kind, Key: r.Key}, store.Op{Kind: r.Kind + "_data", Key: r.Key},
				store.Op{Kind: lineageKind, Key: r.Key})
		}
	}
	for len(gone) > 0 {
		n := min(len(gone), store.MaxOps)
		if _, err := c.cfg.DB.Commit(ctx, gone[:n]...); err != nil {
			return err
		}
		gone = gone[n:]
	}
	if _, err := store.Prune(ctx, c.cfg.DB, refusedKind, func(r store.Record) bool {
		var v refusal
		return json.Unmarshal(r.Value, &v) == nil && !v.Block && v.Expires.Before(before)
	}); err != nil {
		return err
	}
	_, err := store.Prune(ctx, c.cfg.DB, store.KindCA+"used_ott", func(r store.Record) bool {
		t, err := jose.ParseSigned(string(r.Value))
		if err != nil {
			return false
		}
		var cl jose.Claims
		err = t.UnsafeClaimsWithoutVerification(&cl)
		return err == nil && cl.Expiry != nil && cl.Expiry.Time().Before(before)
	})
	return err
}
