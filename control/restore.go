package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/intramesh/mesh/control/store"
)

// Snapshot writes all records.
func (s operator) Snapshot(ctx context.Context, w io.Writer) error {
	return store.WriteSnapshot(ctx, s.db, s.settings.TrustDomain, w)
}

// Restore writes a snapshot into the store of the control plane in dir, or into storeURL when that is not "". It must not hold
// a mesh yet: a file must not exist, below an etcd prefix there must be no key. The keys in dir must be the
// mesh's: a snapshot holds none. No control plane may run on the store. It returns the new version of the rules.
func Restore(ctx context.Context, dir, storeURL string, snapshot io.ReadSeeker) (version uint64, err error) {
	s, err := loadSettings(dir)
	if err != nil {
		return 0, fmt.Errorf("control: %w", err)
	}
	if storeURL != "" {
		s.Store = storeURL
	}
	if s.Store == "" {
		return restoreFile(ctx, filepath.Join(dir, storeFile), snapshot, s.TrustDomain)
	}
	db, err := openStore(ctx, dir, s, nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return store.Restore(ctx, db, snapshot, s.TrustDomain)
}

// restoreFile makes the file under another name, so that half of it never counts.
func restoreFile(ctx context.Context, path string, snapshot io.ReadSeeker, trustDomain string) (version uint64, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("control: %s is there: move it away first", path)
	}
	part := path + ".restoring"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) { // of one that was interrupted
		return 0, fmt.Errorf("control: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part)
		}
	}()
	if err := store.Create(part); err != nil {
		return 0, err
	}
	db, err := store.Open(part)
	if err != nil {
		return 0, err
	}
	version, err = store.Restore(ctx, db, snapshot, trustDomain)
	if err = errors.Join(err, db.Close()); err != nil {
		return 0, err
	}
	if err := os.Rename(part, path); err != nil {
		return 0, fmt.Errorf("control: %w", err)
	}
	return version, nil
}
