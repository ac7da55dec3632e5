package mesh

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/intramesh/mesh/discovery/gossip"
)

// errKeysChanged is the control plane's word that the gossip pool has other keys.
var errKeysChanged = errors.New("the pool's keys have changed")

// poolKeys are the keys of the gossip pool, none outside of one.
type poolKeys struct {
	mu   sync.Mutex
	keys [][]byte
}

func (k *poolKeys) get() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys
}

func (k *poolKeys) set(keys [][]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys = keys
}

// names are what the control plane compares with its own.
func (k *poolKeys) names() string {
	var names []string
	for _, key := range k.get() {
		names = append(names, gossip.KeyID(key))
	}
	return strings.Join(names, ",")
}

// forgetKeys drops the pool's keys, here and in dir: an observer needs none.
func (m *Mesh) forgetKeys(dir string) {
	m.keys.set(nil)
	j, err := loadJoin(dir)
	if err == nil && j != nil {
		j.GossipKeys = nil
		err = saveJoin(dir, j)
	}
	if err != nil {
		m.log.Warn("the gossip pool's keys are still in Config.StateDir", "error", err)
	}
}

// changeKeys takes the pool's new keys from the control plane, and remembers them for the next start.
func (m *Mesh) changeKeys(ctx context.Context) error {
	g := m.gossip
	if g == nil {
		return errKeysChanged // can't be: who has no keys does not ask
	}
	j, err := m.controlJoin(ctx, false)
	if err != nil {
		return err
	}
	if slices.EqualFunc(j.GossipKeys, m.keys.get(), slices.Equal) {
		return errors.New("the control plane says that the pool's keys have changed, and hands out the same") // asked again after a pause
	}
	if err := g.SetKeys(j.GossipKeys); err != nil {
		return err
	}
	m.keys.set(j.GossipKeys)
	m.log.Info("the gossip pool's keys have changed", "keys", m.keys.names())
	dir, err := m.stateDir("gossip")
	if err != nil {
		return err
	}
	if err := saveJoin(dir, j); err != nil || !g.Observes() {
		return err
	}
	m.forgetKeys(dir) // it has become an observer meanwhile
	return nil
}
