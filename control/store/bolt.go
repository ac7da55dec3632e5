package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Bolt is a [DB] in one file, by bbolt, for one process at a time: each commit is one transaction that is
// synced to disk before it is acknowledged.
type Bolt struct {
	db   *bbolt.DB
	path string

	mu       sync.Mutex
	watchers map[chan<- struct{}]string // the kind of each
}

var _ DB = (*Bolt)(nil)

// The layout of the file. A record's key is its kind, a slash and its key; its value is preceded by its
// revision. The digest covers all records and the revision, so that a flipped bit or a lost
// page is noticed and not believed.
const (
	metaBucket    = "meta"
	recordsBucket = "records"
	formatKey     = "format"
	revisionKey   = "revision"
	sumKey        = "sum"
	digestKey     = "digest"
	format        = "mesh store 1"
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
		if _, err := tx.CreateBucket([]byte(recordsBucket)); err != nil {
			return err
		}
		meta, err := tx.CreateBucket([]byte(metaBucket))
		if err != nil {
			return err
		}
		if err := meta.Put([]byte(formatKey), []byte(format)); err != nil {
			return err
		}
		return putState(meta, 0, sum{})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

func boltKey(kind, key string) []byte { return []byte(kind + "/" + key) }

// record reads what is stored under k. Its value is a copy.
func record(k, v []byte) (Record, error) {
	kind, key, ok := bytes.Cut(k, []byte("/"))
	if !ok || len(v) < 8 {
		return Record{}, fmt.Errorf("%q is not a record", k)
	}
	return Record{string(kind), string(key), bytes.Clone(v[8:]), binary.BigEndian.Uint64(v)}, nil
}

// Get returns a record.
func (b *Bolt) Get(ctx context.Context, kind, key string) (r Record, err error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	err = b.db.View(func(tx *bbolt.Tx) error {
		k := boltKey(kind, key)
		v := tx.Bucket([]byte(recordsBucket)).Get(k)
		if v == nil {
			return fmt.Errorf("%s %q: %w", kind, key, ErrNotFound)
		}
		r, err = record(k, v)
		return err
	})
	return r, wrapBolt(err)
}

var errStop = errors.New("enough")

// All yields the records of a kind from one read transaction.
func (b *Bolt) All(ctx context.Context, kind string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		err := b.db.View(func(tx *bbolt.Tx) error {
			prefix := []byte(kind + "/")
			if kind == "" {
				prefix = nil
			}
			c := tx.Bucket([]byte(recordsBucket)).Cursor()
			for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
				r, err := record(k, v)
				if err = errors.Join(ctx.Err(), err); err != nil {
					return err
				}
				if !yield(r, nil) {
					return errStop
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(Record{}, wrapBolt(err))
		}
	}
}

// Commit does all ops in one transaction.
func (b *Bolt) Commit(ctx context.Context, ops ...Op) (revision uint64, err error) {
	if err := checkOps(ops); err != nil {
		return 0, err
	}
	err = b.db.Update(func(tx *bbolt.Tx) error {
		if err := ctx.Err(); err != nil { // the lock may have taken long
			return err
		}
		meta, records := tx.Bucket([]byte(metaBucket)), tx.Bucket([]byte(recordsBucket))
		last, s, err := state(meta)
		if err != nil {
			return err
		}
		revision = last + 1
		for _, o := range ops {
			if !holds(records, o) {
				return &ConflictError{o.Kind, o.Key}
			}
		}
		for _, o := range ops {
			if o.Check {
				continue
			}
			k := boltKey(o.Kind, o.Key)
			if old := records.Get(k); old != nil {
				s.flip(k, old)
			}
			if o.Value == nil {
				err = records.Delete(k)
			} else {
				v := append(binary.BigEndian.AppendUint64(nil, revision), o.Value...)
				s.flip(k, v)
				err = records.Put(k, v)
			}
			if err != nil {
				return err
			}
		}
		return putState(meta, revision, s)
	})
	if err != nil {
		return 0, wrapBolt(err)
	}
	b.wake(ops)
	return revision, nil
}

// holds reports whether the op's condition does.
func holds(records *bbolt.Bucket, o Op) bool {
	v := records.Get(boltKey(o.Kind, o.Key))
	switch o.If {
	case 0:
		return true
	case Absent:
		return v == nil
	}
	return len(v) >= 8 && binary.BigEndian.Uint64(v) == o.If
}

// Watch tells of this process' commits: there are no others.
func (b *Bolt) Watch(ctx context.Context, kind string) <-chan struct{} {
	c := make(chan struct{}, 1)
	c <- struct{}{}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers[c] = kind
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers, c)
	})
	return c
}

func (b *Bolt) wake(ops []Op) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c, kind := range b.watchers {
		for _, o := range ops {
			if o.Kind == kind && !o.Check {
				signal(c)
				break
			}
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is there already
	}
}

// Close closes the file.
func (b *Bolt) Close() error { return wrapBolt(b.db.Close()) }

func wrapBolt(err error) error {
	if _, ok := errors.AsType[*ConflictError](err); ok || err == nil {
		return err
	}
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		err = errClosed
	}
	return fmt.Errorf("store: %w", err)
}
