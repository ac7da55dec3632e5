package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"runtime/debug"
	"syscall"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// A CorruptError says that the file of a store is not what was written to it. Starting over
// with an empty one would drop every rule, and with it every permission and every
// prohibition, and forget which tokens were used: restore it from a snapshot.
type CorruptError struct {
	Path string
	Err  error
}

// Error says what is damaged and what to do.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("store: %s is damaged: %v: restore it from a snapshot", e.Path, e.Err)
}

// Unwrap returns Err.
func (e *CorruptError) Unwrap() error { return e.Err }

// Open opens a store that [Create] made, and verifies all of it. One process at a time can have
// it open: it waits for 2 s. A damaged, empty or missing file is an error, a
// [*CorruptError] in the first two cases.
func Open(path string) (*Bolt, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("store: %w (restore it from a snapshot)", err)
	}
	if info.Size() == 0 { // bbolt would make a new one of it
		return nil, &CorruptError{path, errors.New("it is empty")}
	}
	b := &Bolt{path: path, watchers: make(map[chan<- struct{}]string)}
	if err = verify(path, info.Size()); err != nil {
		return nil, openError(path, err)
	}
	if b.db, err = bbolt.Open(path, 0o600, options()); err != nil {
		return nil, openError(path, err)
	}
	return b, nil
}

func openError(path string, err error) error {
	if errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("store: %s is held by another process", path)
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("store: %w", err)
	}
	return &CorruptError{path, err}
}

// verify reads everything once. bbolt believes what it finds in its memory map, and
// when it opens a file for writing it does so in a goroutine that a fault ends with the process:
// so first read-only, in this one.
func verify(path string, size int64) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: openTimeout, ReadOnly: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.View(func(tx *bbolt.Tx) error {
		if size < tx.Size() {
			return fmt.Errorf("it has %d of %d bytes", size, tx.Size())
		}
		if err := checkMeta(path, int64(db.Info().PageSize)); err != nil {
			return err
		}
		return verifyRecords(tx)
	})
}

// checkMeta wants both of bbolt's meta pages intact. bbolt itself is content with one, and
// goes back to the transaction before: an acknowledged change would be gone, and the next
// one would get a version that members have already seen.
func checkMeta(path string, pageSize int64) error {
	const (
		offset = 16 // a page's header
		size   = 56 // what the checksum, FNV-1a, covers; it follows
	)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for page := range int64(2) {
		var m [size + 8]byte
		if _, err := f.ReadAt(m[:], page*pageSize+offset); err != nil {
			return err
		}
		h := fnv.New64a()
		h.Write(m[:size])
		if h.Sum64() != binary.NativeEndian.Uint64(m[size:]) {
			return errors.New("one of its two meta pages is, so the last change may be lost")
		}
	}
	return nil
}

// verifyRecords reads every record, and wants the digest to cover exactly these.
func verifyRecords(tx *bbolt.Tx) error {
	meta, records := tx.Bucket([]byte(metaBucket)), tx.Bucket([]byte(recordsBucket))
	if meta == nil || records == nil || string(meta.Get([]byte(formatKey))) != format {
		return fmt.Errorf("it does not say %q", format)
	}
	_, want, err := state(meta)
	if err != nil {
		return err
	}
	var got sum
	err = records.ForEach(func(k, v []byte) error {
		if !bytes.Equal(records.Get(k), v) {
			return fmt.Errorf("%q is there and can't be found", k)
		}
		got.flip(k, v)
		_, err := record(k, v)
		return err
	})
	if err != nil {
		return err
	}
	if got != want {
		return errors.New("its digest does not match")
	}
	return nil
}
