package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/intramesh/mesh/policy"
	"go.etcd.io/bbolt"
)

// Bolt is a [Store] in one file, by bbolt: each change is one transaction that is synced to
// disk before it is acknowledged.
type Bolt struct {
	db    *bbolt.DB
	check Check

	mu      sync.Mutex // held while changing
	now     Rules
	changed chan struct{}
}

var _ Store = (*Bolt)(nil)

// The layout of the file. The digest covers every document and the version, so that a
// flipped bit is noticed and not enforced.
const (
	metaBucket  = "meta"
	rulesBucket = "rules"
	formatKey   = "format"
	versionKey  = "version"
	digestKey   = "digest"
	format      = "mesh rules 1"
)

const openTimeout = 2 * time.Second

// options: the list of free pages is not kept in the file but found by walking it, since a
// damaged list would have live pages overwritten.
func options() *bbolt.Options {
	return &bbolt.Options{Timeout: openTimeout, NoFreelistSync: true}
}

// Create makes an empty store at path, which must not exist.
func Create(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: %s exists already", path)
	}
	db, err := bbolt.Open(path, 0o600, options())
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket([]byte(rulesBucket)); err != nil {
			return err
		}
		meta, err := tx.CreateBucket([]byte(metaBucket))
		if err != nil {
			return err
		}
		if err := meta.Put([]byte(formatKey), []byte(format)); err != nil {
			return err
		}
		return putVersion(tx, 1)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// Rules returns the current rules.
func (b *Bolt) Rules() Rules {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

// Changed is closed at the next change.
func (b *Bolt) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// Apply adds and replaces documents in one transaction.
func (b *Bolt) Apply(ctx context.Context, docs []policy.Document) (Result, error) {
	return b.update(ctx, func(rules *bbolt.Bucket) ([]NamedChange, error) {
		var changes []NamedChange
		for _, d := range docs {
			name := []byte(d.Metadata.Name)
			data, err := json.Marshal(d)
			if err != nil {
				return nil, err
			}
			change := Updated
			switch old := rules.Get(name); {
			case old == nil:
				change = Created
			case bytes.Equal(old, data):
				change = Unchanged
			}
			changes = append(changes, NamedChange{d.Metadata.Name, change})
			if change != Unchanged {
				if err := rules.Put(name, data); err != nil {
					return nil, err
				}
			}
		}
		return changes, nil
	})
}

// Delete removes documents in one transaction.
func (b *Bolt) Delete(ctx context.Context, names []string) (Result, error) {
	return b.update(ctx, func(rules *bbolt.Bucket) ([]NamedChange, error) {
		var changes []NamedChange
		for _, name := range names {
			if rules.Get([]byte(name)) == nil {
				return nil, fmt.Errorf("policy %q: %w", name, ErrNotFound)
			}
			changes = append(changes, NamedChange{name, Deleted})
			if err := rules.Delete([]byte(name)); err != nil {
				return nil, err
			}
		}
		return changes, nil
	})
}

func (b *Bolt) update(ctx context.Context, change func(*bbolt.Bucket) ([]NamedChange, error)) (Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil { // the lock may have taken long
		return Result{}, err
	}
	var res Result
	next := b.now
	err := b.db.Update(func(tx *bbolt.Tx) (err error) {
		if res.Changes, err = change(tx.Bucket([]byte(rulesBucket))); err != nil {
			return err
		}
		if !slices.ContainsFunc(res.Changes, func(c NamedChange) bool { return c.Change != Unchanged }) {
			return nil
		}
		if err := putVersion(tx, b.now.Version+1); err != nil {
			return err
		}
		if next, err = read(tx); err != nil {
			return err
		}
		if b.check == nil {
			return nil
		}
		if err := b.check(next); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return nil
	})
	if err != nil {
		return Result{}, fmt.Errorf("store: %w", err)
	}
	res.Version = next.Version
	if next.Version != b.now.Version {
		b.now = next
		close(b.changed)
		b.changed = make(chan struct{})
	}
	return res, nil
}

// Close closes the file.
func (b *Bolt) Close() error {
	if err := b.db.Close(); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// putVersion sets the version and the digest over it and the documents as they are now.
func putVersion(tx *bbolt.Tx, version uint64) error {
	meta := tx.Bucket([]byte(metaBucket))
	if err := meta.Put([]byte(versionKey), binary.BigEndian.AppendUint64(nil, version)); err != nil {
		return err
	}
	sum, err := digest(tx)
	if err != nil {
		return err
	}
	return meta.Put([]byte(digestKey), sum)
}

func digest(tx *bbolt.Tx) ([]byte, error) {
	h := sha256.New()
	field := func(b []byte) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	field(tx.Bucket([]byte(metaBucket)).Get([]byte(versionKey)))
	err := tx.Bucket([]byte(rulesBucket)).ForEach(func(k, v []byte) error {
		field(k)
		field(v)
		return nil
	})
	return h.Sum(nil), err
}
