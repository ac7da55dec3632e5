package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
)

// A Table is the records of one kind as values of one type, in JSON.
type Table[T any] struct {
	DB   DB
	Kind string
}

// An Entry is a value with its key and the revision that wrote it.
type Entry[T any] struct {
	Key      string
	Value    T
	Revision uint64
}

// Decode reads a record of the table, for [Prune] and its like.
func (t Table[T]) Decode(r Record) (e Entry[T], err error) {
	e.Key, e.Revision = r.Key, r.Revision
	if err := json.Unmarshal(r.Value, &e.Value); err != nil {
		return e, fmt.Errorf("store: %s %q: %w", r.Kind, r.Key, err)
	}
	return e, nil
}

// Get returns a value and the revision that wrote it, or [ErrNotFound].
func (t Table[T]) Get(ctx context.Context, key string) (T, uint64, error) {
	r, err := t.DB.Get(ctx, t.Kind, key)
	if err != nil {
		return *new(T), 0, err
	}
	e, err := t.Decode(r)
	return e.Value, e.Revision, err
}

// All yields all values in the order of their keys, see [DB].
func (t Table[T]) All(ctx context.Context) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		for r, err := range t.DB.All(ctx, t.Kind) {
			var e Entry[T]
			if err == nil {
				e, err = t.Decode(r)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Op returns what writes v under key, on a condition: see [Op].
func (t Table[T]) Op(key string, v T, onlyIf uint64) (Op, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Op{}, fmt.Errorf("store: %s %q: %w", t.Kind, key, err)
	}
	return Op{Kind: t.Kind, Key: key, Value: raw, If: onlyIf}, nil
}

// maxTries bounds how often a change that others get ahead of is tried again.
const maxTries = 16

// Update changes a value, again from the start as long as somebody else is faster. change gets the value, or
// the zero value and found false; it may be called several times. What it returns is committed together with the
// changed value; its error ends Update.
func (t Table[T]) Update(ctx context.Context, key string, change func(v *T, found bool) ([]Op, error)) error {
	for range maxTries {
		v, revision, err := t.Get(ctx, key)
		found := err == nil
		if errors.Is(err, ErrNotFound) {
			revision, err = Absent, nil
		}
		if err != nil {
			return err
		}
		also, err := change(&v, found)
		if err != nil {
			return err
		}
		op, err := t.Op(key, v, revision)
		if err != nil {
			return err
		}
		_, err = t.DB.Commit(ctx, append(also, op)...)
		if _, conflict := errors.AsType[*ConflictError](err); !conflict {
			return err
		}
	}
	return &ConflictError{t.Kind, key}
}

// Prune deletes the records of a kind for which dead returns true, unless they change meanwhile, and returns how many
// it deleted.
func Prune(ctx context.Context, db DB, kind string, dead func(Record) bool) (int, error) {
	var ops []Op
	for r, err := range db.All(ctx, kind) {
		if err != nil {
			return 0, err
		}
		if dead(r) {
			ops = append(ops, Op{Kind: r.Kind, Key: r.Key, If: r.Revision})
		}
	}
	n := 0
	for _, op := range ops {
		_, err := db.Commit(ctx, op)
		if _, conflict := errors.AsType[*ConflictError](err); conflict {
			continue
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
