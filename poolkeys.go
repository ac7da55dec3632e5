package mesh

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
)

// errKeysChanged is the control plane's word that the gossip pool has other keys.
var errKeysChanged = errors.New("the pool's keys have changed")

// poolKeys are the keys of the gossip pool, none outside of one.
type poolKeys struct {
	mu    sync.Mutex
	keys  [][]byte // the control plane's, or those of an earlier run
	tried [][]byte // what is in force instead, see tryKeys; usually nil
}

func (k *poolKeys) get() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys
}

func (k *poolKeys) set(keys [][]byte) { _ = k.use(nil, keys) }

// use puts keys in force, where there is a pool.
func (k *poolKeys) use(g *gossip.Participant, keys [][]byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if g != nil {
		if err := g.SetKeys(keys); err != nil {
			return err
		}
	}
	k.keys, k.tried = keys, nil
	return nil
}

// try puts keys in force for the time being. It reports false if the pool's keys are no longer own.
func (k *poolKeys) try(g *gossip.Participant, own, keys [][]byte) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.EqualFunc(own, k.keys, slices.Equal) || g.SetKeys(keys) != nil {
		return false
	}
	k.tried = keys
	return true
}

func (k *poolKeys) inForce() [][]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.tried != nil {
		return k.tried
	}
	return k.keys
}

// names are what the control plane compares with its own.
func (k *poolKeys) names() string {
	var names []string
	for _, key := range k.inForce() {
		names = append(names, gossip.KeyID(key))
	}
	return strings.Join(names, ",")
}

// tryWait is how long a member knocks with some keys until it tries others.
const tryWait = 10 * time.Second

// tryKeys is for who slept through a change of the keys, and finds the control plane gone. While its own keys reach nobody it also
// knocks with those that a peer told, in turns. They are never kept nor passed on: a peer is no authority on keys, and whoever lies
// about them fools only who had nobody to talk to, until the control plane is back.
func (m *Mesh) tryKeys(g *gossip.Participant, own, told [][]byte) {
	first, second := own, told
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(tryWait):
		}
		if len(g.Members()) > 1 {
			return // it is not alone
		}
		first, second = second, first
		both := append(slices.Clip(first), second...)
		if !m.keys.try(g, own, both[:min(len(both), gossip.MaxKeys)]) {
			return // the control plane is back, and has told
		}
		m.log.Warn("nobody answers to the gossip keys of an earlier run, and the control plane is gone: trying those that a peer tells, and its own, in turns",
			"keys", m.keys.names())
	}
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
	if slices.EqualFunc(j.GossipKeys, m.keys.inForce(), slices.Equal) {
		return errors.New("the control plane says that the pool's keys have changed, and hands out the same") // asked again after a pause
	}
	if err := m.keys.use(g, j.GossipKeys); err != nil {
		return err
	}
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
