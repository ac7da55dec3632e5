package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// KeepVersions is how many versions [RuleBook.Prune] leaves.
const KeepVersions = 500

// History returns the newest versions, newest first, at most n.
func (b *RuleBook) History(ctx context.Context, n int) ([]Version, error) {
	var all []Version
	for e, err := range (Table[head]{b.db, KindHistory}).All(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, e.Value.Version)
	}
	slices.Reverse(all)
	return all[:min(n, len(all))], nil
}

// At returns the rules of a version, or [ErrNotFound] when there was none or it is pruned.
func (b *RuleBook) At(ctx context.Context, version uint64) (Rules, error) {
	if now := b.Rules(); now.Version == version {
		return now, nil
	}
	h, _, err := Table[head]{b.db, KindHistory}.Get(ctx, versionKey(version))
	if errors.Is(err, ErrNotFound) {
		return Rules{}, fmt.Errorf("store: rules v%d: %w", version, ErrNotFound)
	}
	if err != nil {
		return Rules{}, err
	}
	return unpack(ctx, b.db, h)
}

// Rollback makes the documents of an earlier version current, as a new version: what is attached stays
// as it is. base is as in [Edit].
func (b *RuleBook) Rollback(ctx context.Context, version, base uint64) (Result, error) {
	old, err := b.At(ctx, version)
	if err != nil {
		return Result{}, err
	}
	return b.Apply(ctx, Edit{Base: base, Put: old.Documents, Replace: true, Action: fmt.Sprintf("rollback to v%d", version)})
}

// staleListed bounds the versions that a StaleError lists.
const staleListed = 20

func (b *RuleBook) stale(ctx context.Context, base, current uint64) error {
	e := &StaleError{Base: base, Current: current}
	history, err := b.History(ctx, staleListed)
	if err != nil {
		return err
	}
	for _, v := range history {
		if v.Version > base {
			e.Since = append(e.Since, v)
		}
	}
	return e
}

// Prune forgets all but the newest [KeepVersions] versions, and documents that no version names.
func (b *RuleBook) Prune(ctx context.Context) error {
	var heads []Entry[head]
	for e, err := range (Table[head]{b.db, KindHistory}).All(ctx) {
		if err != nil {
			return err
		}
		heads = append(heads, e)
	}
	old := heads[:max(0, len(heads)-KeepVersions)]
	named := make(map[string]bool)
	for _, e := range heads[len(old):] {
		for i := range e.Value.Parts {
			named[partKey(e.Value.Data, i)] = true
		}
	}
	// What is being written now is for a version beyond.
	last := heads[len(heads)-1].Key
	for _, e := range old {
		if _, err := b.db.Commit(ctx, Op{Kind: KindHistory, Key: e.Key, If: e.Revision}); err != nil {
			return err
		}
	}
	_, err := Prune(ctx, b.db, KindRulesData, func(r Record) bool {
		return versionOfPart(r.Key) <= last && !named[r.Key]
	})
	return err
}
