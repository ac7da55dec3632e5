package control

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/intramesh/mesh/control/store"
)

// storeTimeout is how long an etcd cluster may take to answer when the control plane starts.
const storeTimeout = 30 * time.Second

// openStore opens what the settings name.
func openStore(ctx context.Context, dir string, s Settings, log *slog.Logger) (store.DB, error) {
	if s.Store == "" {
		db, err := store.Open(filepath.Join(dir, storeFile))
		if err != nil {
			return nil, err // not a nil *Bolt in an interface
		}
		return db, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	db, err := store.OpenEtcd(ctx, s.Store, log)
	if err != nil {
		return nil, err
	}
	return db, nil
}

// createStore makes the store of a new mesh. One that is in etcd already is not touched.
func createStore(dir string, s Settings) (err error) {
	if s.Store == "" {
		if err := store.Create(filepath.Join(dir, storeFile)); err != nil {
			return err
		}
	}
	ctx := context.Background()
	db, err := openStore(ctx, dir, s, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return store.CreateRules(ctx, db)
}
