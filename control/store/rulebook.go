package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// A RuleBook is the rules in a [DB], with their history. The current version is in memory; a change by another
// replica arrives by itself. It is safe for concurrent use.
type RuleBook struct {
	db    DB
	check Check
	log   *slog.Logger

	editing sync.Mutex // held while changing

	mu       sync.Mutex
	now      Rules
	revision uint64 // of the record that makes now current
	changed  chan struct{}

	stop context.CancelFunc
	wg   sync.WaitGroup
}

const headKey = "current"

// CreateRules begins the rules of a new store: version 1, without documents.
func CreateRules(ctx context.Context, db DB) error {
	return firstVersion(ctx, db, Rules{Version: 1, At: timestamp()}, "init")
}

// firstVersion is the first of a store or of one that was restored.
func firstVersion(ctx context.Context, db DB, r Rules, action string) error {
	h := head{Version: Version{Version: r.Version, At: r.At, By: ActorFrom(ctx), Action: action}}
	ops, err := pack(r, &h)
	if err != nil {
		return err
	}
	_, err = commitVersion(ctx, db, h, ops, []Op{Audit(ctx, "rules: "+action, fmt.Sprintf("v%d", r.Version), "")}, Absent)
	if _, conflict := errors.AsType[*ConflictError](err); conflict {
		return fmt.Errorf("store: there is a mesh in it already (another one wants another prefix): %w", err)
	}
	return err
}

// OpenRules reads the current rules, and follows them until Close. A nil check accepts everything, a nil logger
// discards.
func OpenRules(ctx context.Context, db DB, check Check, log *slog.Logger) (*RuleBook, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &RuleBook{db: db, check: check, log: log, changed: make(chan struct{})}
	if err := b.refresh(ctx); err != nil {
		if errors.Is(err, ErrNotFound) {
			return nil, fmt.Errorf("store: there is no mesh in it (was another prefix meant?): %w", err)
		}
		return nil, err
	}
	fctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	b.wg.Go(func() { b.follow(fctx) })
	return b, nil
}

// Rules returns the current rules, from memory.
func (b *RuleBook) Rules() Rules {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

// Changed is closed at the next change; call it again, before Rules, for the one after.
func (b *RuleBook) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *RuleBook) current() (Rules, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now, b.revision
}

// set makes r current unless something newer is.
func (b *RuleBook) set(r Rules, revision uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if revision <= b.revision {
		return
	}
	b.now, b.revision = r, revision
	close(b.changed)
	b.changed = make(chan struct{})
}

// refresh reads what is current.
func (b *RuleBook) refresh(ctx context.Context) error {
	for range maxTries {
		h, revision, err := Table[head]{b.db, KindRules}.Get(ctx, headKey)
		if err != nil {
			return err
		}
		if _, have := b.current(); revision <= have {
			return nil
		}
		r, err := unpack(ctx, b.db, h)
		if errors.Is(err, ErrNotFound) {
			// So many versions came meanwhile that this one is pruned; or its parts are lost.
			if _, again, e := (Table[head]{b.db, KindRules}).Get(ctx, headKey); e == nil && again != revision {
				continue
			}
		}
		if err != nil {
			return err
		}
		b.set(r, revision)
		return nil
	}
	return &ConflictError{KindRules, headKey}
}

// refreshRetry is how long after a failure the rules are read again.
const refreshRetry = time.Second

func (b *RuleBook) follow(ctx context.Context) {
	watch := b.db.Watch(ctx, KindRules)
	retry := time.NewTimer(0)
	defer retry.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-watch:
		case <-retry.C:
		}
		err := b.refresh(ctx)
		if err == nil {
			failing = false
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if !failing {
			b.log.ErrorContext(ctx, "rules can't be read; those in force stay", "error", err)
		}
		failing = true
		retry.Reset(refreshRetry)
	}
}

// Apply makes a change. When it returns without error the change survives a crash, and every replica gets
// it.
func (b *RuleBook) Apply(ctx context.Context, e Edit) (Result, error) {
	b.editing.Lock()
	defer b.editing.Unlock()
	for range maxTries {
		if err := ctx.Err(); err != nil { // the lock may have taken long
			return Result{}, err
		}
		res, err := b.try(ctx, e)
		c, conflict := errors.AsType[*ConflictError](err)
		if !conflict || c.Kind != KindRules {
			return res, err
		}
		if err := b.refresh(ctx); err != nil {
			return Result{}, err
		}
	}
	return Result{}, &ConflictError{KindRules, headKey}
}

func (b *RuleBook) try(ctx context.Context, e Edit) (Result, error) {
	now, revision := b.current()
	if e.Base != 0 && e.Base != now.Version {
		if err := b.refresh(ctx); err != nil { // it may be newer than what arrived here
			return Result{}, err
		}
		if now, revision = b.current(); e.Base != now.Version {
			return Result{}, b.stale(ctx, e.Base, now.Version)
		}
	}
	next, changes, err := e.apply(now)
	if err != nil {
		return Result{}, err
	}
	if !changed(now, next, changes) {
		if len(e.Also) > 0 {
			_, err = b.db.Commit(ctx, e.Also...)
		}
		return Result{now.Version, changes}, err
	}
	if b.check != nil {
		if err := b.check(next); err != nil {
			return Result{}, fmt.Errorf("store: %w: %w", ErrInvalid, err)
		}
	}
	h := head{Version: Version{Version: next.Version, At: next.At, By: ActorFrom(ctx), Action: e.Action}}
	h.list(changes)
	parts, err := pack(next, &h)
	if err != nil {
		return Result{}, err
	}
	also := append([]Op{Audit(ctx, "rules: "+e.Action, fmt.Sprintf("v%d", next.Version), h.String())}, e.Also...)
	if revision, err = commitVersion(ctx, b.db, h, parts, also, revision); err != nil {
		return Result{}, err
	}
	b.set(next, revision)
	return Result{next.Version, changes}, nil
}

// list fills in what changed.
func (h *head) list(changes []NamedChange) {
	for _, c := range changes {
		switch {
		case c.Change == Unchanged:
		case len(h.Changes) < maxListed:
			h.Changes = append(h.Changes, c)
		default:
			h.More++
		}
	}
}

// commitVersion writes the documents and makes them current, if the current version's record still has the
// revision.
func commitVersion(ctx context.Context, db DB, h head, parts, also []Op, revision uint64) (uint64, error) {
	for len(parts) > 1 { // nobody sees them before the last commit
		if _, err := db.Commit(ctx, parts[0]); err != nil {
			return 0, err
		}
		parts = parts[1:]
	}
	raw, err := json.Marshal(h)
	if err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	ops := append([]Op{
		{Kind: KindRules, Key: headKey, Value: raw, If: revision},
		{Kind: KindHistory, Key: versionKey(h.Version.Version), Value: raw, If: Absent},
	}, also...)
	return db.Commit(ctx, append(ops, parts...)...)
}

// Close stops following. The DB stays open.
func (b *RuleBook) Close() error {
	b.stop()
	b.wg.Wait()
	return nil
}
