package ca

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/intramesh/mesh/control/store"
	"github.com/smallstep/nosql/database"
)

// records is smallstep's database on the control plane's store: each of its tables is a kind. So
// replicas on one store share what smallstep keeps, used tokens and revocations above all: a
// token is used once whichever replica it is shown to, and what one issued another renews. smallstep's own
// databases are files of one process, MySQL or PostgreSQL.
type records struct{ db store.DB }

var _ database.DB = records{}

// smallstep's interface has no context; the store bounds each call itself.
func (records) ctx() context.Context { return context.Background() }

func kind(table []byte) string { return store.KindCA + string(table) }

// Open does nothing: the store is open.
func (records) Open(string, ...database.Option) error { return nil }

// Close does nothing: who opened the store closes it.
func (records) Close() error { return nil }

// CreateTable does nothing: kinds need no making.
func (records) CreateTable([]byte) error { return nil }

// DeleteTable is not supported: nothing that we use does it.
func (records) DeleteTable([]byte) error { return database.ErrOpNotSupported }

func (r records) get(table, key []byte) (store.Record, error) {
	rec, err := r.db.Get(r.ctx(), kind(table), string(key))
	if errors.Is(err, store.ErrNotFound) {
		return rec, database.ErrNotFound
	}
	return rec, err
}

// Get returns a value.
func (r records) Get(table, key []byte) ([]byte, error) {
	rec, err := r.get(table, key)
	return rec.Value, err
}

func set(table, key, value []byte) store.Op {
	return store.Op{Kind: kind(table), Key: string(key), Value: append([]byte{}, value...)}
}

// Set stores a value.
func (r records) Set(table, key, value []byte) error {
	_, err := r.db.Commit(r.ctx(), set(table, key, value))
	return err
}

// Del deletes a value.
func (r records) Del(table, key []byte) error {
	_, err := r.db.Commit(r.ctx(), store.Op{Kind: kind(table), Key: string(key)})
	return err
}

// CmpAndSwap stores a value when the one that is there is the old one, nil for none. It returns what is there in the end.
func (r records) CmpAndSwap(table, key, old, value []byte) ([]byte, bool, error) {
	for {
		rec, err := r.get(table, key)
		if errors.Is(err, database.ErrNotFound) {
			rec.Revision, err = store.Absent, nil
		}
		if err != nil {
			return nil, false, err
		}
		if !bytes.Equal(rec.Value, old) {
			return rec.Value, false, nil
		}
		op := set(table, key, value)
		op.If = rec.Revision
		_, err = r.db.Commit(r.ctx(), op)
		if _, conflict := errors.AsType[*store.ConflictError](err); conflict {
			continue // what is there now?
		}
		return value, err == nil, err
	}
}

// List returns a table.
func (r records) List(table []byte) ([]*database.Entry, error) {
	var all []*database.Entry
	for rec, err := range r.db.All(r.ctx(), kind(table)) {
		if err != nil {
			return nil, err
		}
		all = append(all, &database.Entry{Bucket: table, Key: []byte(rec.Key), Value: rec.Value})
	}
	return all, nil
}

// Update does several writes, all or none.
func (r records) Update(tx *database.Tx) error {
	var ops []store.Op
	for _, o := range tx.Operations {
		switch o.Cmd {
		case database.CreateTable:
		case database.Set:
			ops = append(ops, set(o.Bucket, o.Key, o.Value))
		case database.Delete:
			ops = append(ops, store.Op{Kind: kind(o.Bucket), Key: string(o.Key)})
		default:
			return fmt.Errorf("ca: %v in a transaction: %w", o.Cmd, database.ErrOpNotSupported)
		}
	}
	if len(ops) == 0 {
		return nil
	}
	_, err := r.db.Commit(r.ctx(), ops...)
	return err
}
