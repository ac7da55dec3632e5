package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/discovery/gossip"
)

// keyring is the gossip pool's keys, the one that encrypts first: those of the file that mesh init wrote until they are
// changed, then those in the store, which all replicas share.
type keyring struct {
	table store.Table[sealedKeys]
	seal  []byte
	first [][]byte // of the file

	mu      sync.Mutex
	keys    [][]byte
	changed chan struct{} // closed when keys are others
}

// sealedKeys is the record: the keys as JSON, encrypted by [store.Seal].
type sealedKeys struct {
	Sealed []byte `json:"sealed"`
}

const keyringKey = "gossip"

func openKeyring(ctx context.Context, dir string, db store.DB) (*keyring, error) {
	first, err := loadSecrets(dir, gossipKeyFile)
	if err != nil {
		return nil, err
	}
	seal, err := loadSecrets(dir, sealKeyFile)
	if err != nil {
		return nil, err
	}
	k := &keyring{
		table: store.Table[sealedKeys]{DB: db, Kind: store.KindKeyring}, seal: seal[0], first: first, keys: first,
		changed: make(chan struct{}),
	}
	return k, k.refresh(ctx)
}

// refresh reads what is in the store.
func (k *keyring) refresh(ctx context.Context) error {
	v, _, err := k.table.Get(ctx, keyringKey)
	keys := k.first
	if err == nil {
		keys, err = k.unseal(v)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.EqualFunc(keys, k.keys, slices.Equal) {
		k.keys = keys
		close(k.changed)
		k.changed = make(chan struct{})
	}
	return nil
}

func (k *keyring) unseal(v sealedKeys) (keys [][]byte, err error) {
	raw, err := store.Unseal(k.seal, store.KindKeyring, keyringKey, v.Sealed)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &keys); err != nil || len(keys) == 0 {
		return nil, errors.New("the keyring in the store can't be read")
	}
	return keys, nil
}

func (k *keyring) current() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys
}

// names are what members compare theirs with, and a channel that is closed when they are others.
func (k *keyring) names() (string, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return strings.Join(keyNames(k.keys), ","), k.changed
}

func keyNames(keys [][]byte) []string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = gossip.KeyID(key)
	}
	return names
}

// change stores what edit makes of the keys.
func (k *keyring) change(ctx context.Context, action, id string, edit func(keys [][]byte) ([][]byte, error)) error {
	err := k.table.Update(ctx, keyringKey, func(v *sealedKeys, found bool) ([]store.Op, error) {
		keys, err := slices.Clone(k.first), error(nil)
		if found {
			if keys, err = k.unseal(*v); err != nil {
				return nil, err
			}
		}
		if keys, err = edit(keys); err != nil {
			return nil, err
		}
		raw, err := json.Marshal(keys)
		if err != nil {
			return nil, err
		}
		v.Sealed, err = store.Seal(k.seal, store.KindKeyring, keyringKey, raw)
		return []store.Op{store.Audit(ctx, action, id, "")}, err
	})
	if err != nil {
		return err
	}
	return k.refresh(ctx)
}

// followKeyring takes over what any replica changed, until ctx is done.
func (s *Server) followKeyring(ctx context.Context) {
	watch := s.db.Watch(ctx, store.KindKeyring)
	for {
		_, changed := s.keyring.names()
		if err := s.gossip.SetKeys(s.keyring.current()); err != nil {
			s.log.ErrorContext(ctx, "the gossip keys can't be used", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			now, _ := s.keyring.names()
			s.log.InfoContext(ctx, "the gossip keys have changed", "keys", now)
		case <-watch:
			if err := s.keyring.refresh(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "the gossip keys can't be read; those known stay in use", "error", err)
			}
		}
	}
}

// Keys lists the pool's keys, and who has them.
func (s operator) Keys(context.Context) ([]admin.Key, error) {
	keys := []admin.Key{}
	asked := s.polls.recent()
	for i, id := range keyNames(s.keyring.current()) {
		k := admin.Key{ID: id, Encrypts: i == 0}
		for _, q := range asked {
			switch has := strings.Split(q.keys, ","); {
			case q.keys == "": // it does not gossip
			case slices.Contains(has, id):
				k.Members++
				if has[0] == id {
					k.Encrypting++
				}
			default:
				k.Missing = append(k.Missing, q.service+" "+q.instance)
			}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// InstallKey makes a key that nobody encrypts with yet.
func (s operator) InstallKey(ctx context.Context) (admin.Key, error) {
	key := make([]byte, secretSize)
	_, _ = rand.Read(key) // never fails
	id := gossip.KeyID(key)
	return admin.Key{ID: id}, s.keyring.change(ctx, "gossip key installed", id, func(keys [][]byte) ([][]byte, error) {
		if len(keys) == gossip.MaxKeys {
			return nil, admin.Refuse(http.StatusConflict, fmt.Errorf("there are %d keys already: remove one first", len(keys)))
		}
		return append(keys, key), nil
	})
}

// UseKey has everybody encrypt with a key.
func (s operator) UseKey(ctx context.Context, id string, force bool) error {
	k, err := s.key(ctx, id)
	if err != nil {
		return err
	}
	if len(k.Missing) > 0 && !force {
		return admin.Refuse(http.StatusConflict, fmt.Errorf("%d members do not have key %s yet, and would hear nothing: %s (force leaves them behind until they ask)",
			len(k.Missing), id, some(k.Missing)))
	}
	return s.keyring.change(ctx, "gossip key used", id, func(keys [][]byte) ([][]byte, error) {
		i := slices.Index(keyNames(keys), id)
		if i < 0 {
			return nil, unknownKey(id)
		}
		key := keys[i]
		return slices.Insert(slices.Delete(keys, i, i+1), 0, key), nil
	})
}

// RemoveKey has everybody forget a key.
func (s operator) RemoveKey(ctx context.Context, id string, force bool) error {
	k, err := s.key(ctx, id)
	switch {
	case err != nil:
		return err
	case k.Encrypts:
		return admin.Refuse(http.StatusConflict, fmt.Errorf("key %s is in use: use another one first", id))
	case k.Encrypting > 0 && !force:
		return admin.Refuse(http.StatusConflict, fmt.Errorf("%d members still encrypt with key %s, and would not be heard: wait a moment (or force it)", k.Encrypting, id))
	}
	return s.keyring.change(ctx, "gossip key removed", id, func(keys [][]byte) ([][]byte, error) {
		i := slices.Index(keyNames(keys), id)
		if i < 0 {
			return nil, unknownKey(id)
		}
		return slices.Delete(keys, i, i+1), nil
	})
}

func (s operator) key(ctx context.Context, id string) (admin.Key, error) {
	keys, err := s.Keys(ctx)
	if err != nil {
		return admin.Key{}, err
	}
	for _, k := range keys {
		if k.ID == id {
			return k, nil
		}
	}
	return admin.Key{}, unknownKey(id)
}

func unknownKey(id string) error {
	return admin.Refuse(http.StatusNotFound, fmt.Errorf("there is no gossip key %q", id))
}

// some names the first few.
func some(names []string) string {
	const few = 5
	if len(names) > few {
		return strings.Join(names[:few], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
