package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Snapshots is the part of a [Backend] that is about backups.
type Snapshots interface {
	// Snapshot writes everything in the store to w (store.WriteSnapshot).
	Snapshot(ctx context.Context, w io.Writer) error
}

// snapshotTimeout bounds the writing of a snapshot.
const snapshotTimeout = 30 * time.Minute

// Snapshot writes everything in the store to w. Whether it is whole, store.ReadSnapshot tells.
func (c *Client) Snapshot(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/snapshot", http.NoBody)
	if err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	resp, err := (&http.Client{Transport: c.http.Transport}).Do(req) // without the timeout of a call
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		e := &Error{Status: resp.StatusCode}
		if json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(e) != nil || e.Message == "" {
			e.Message = resp.Status
		}
		return e
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("admin: snapshot: %w", err)
	}
	return nil
}

func (h handler) snapshot(w http.ResponseWriter, r *http.Request) {
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(snapshotTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		h.answer(w, r, nil, err)
		return
	}
	out := &begun{ResponseWriter: w}
	err := h.Snapshot(r.Context(), out)
	switch {
	case err == nil:
	case !out.yes:
		h.answer(w, r, nil, err)
	default: // it ends before its end, which whoever reads it notices
		h.log.ErrorContext(r.Context(), "a snapshot was not completed", "error", err)
		panic(http.ErrAbortHandler)
	}
}

// begun notes that an answer has begun.
type begun struct {
	http.ResponseWriter
	yes bool
}

func (b *begun) Write(p []byte) (int, error) {
	if !b.yes {
		b.yes = true
		b.Header().Set("Content-Type", "application/gzip")
		b.Header().Set("Cache-Control", "no-store")
	}
	return b.ResponseWriter.Write(p)
}
