package mesh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/intramesh/mesh/internal/pace"
	"github.com/intramesh/mesh/internal/strictjson"
	"github.com/intramesh/mesh/internal/wire"
)

const (
	joinFile = "join.json"
	// maxGossipKeys bounds the keys that somebody says the pool has, maxSeeds the members to join it through;
	// toldSeeds is how many of these a member tells others, and
	// maxCAs bounds the servers of the certificate authority.
	maxGossipKeys = gossip.MaxKeys
	maxSeeds      = 64
	toldSeeds     = 8
	maxCAs        = 16
)

// fetchJoin asks the control plane how to gossip, and remembers the answer in dir ("" for nowhere). It has keys unless this process may
// observe, and the pool is large. When it is gone, what an
// earlier run left counts, joined by where peers say that the pool is now; without an earlier run, what a peer says. Told are the keys
// that a peer says the pool has, when those of an earlier run count.
func (m *Mesh) fetchJoin(ctx context.Context, dir string, observes bool) (j *wire.Join, told [][]byte, err error) {
	j, err = m.controlJoin(ctx, observes)
	if err != nil {
		var ferr error
		if j, ferr = loadJoin(dir); ferr != nil {
			m.log.Warn("what an earlier run left about gossip is unusable", "error", ferr)
		}
		peers := m.peersJoin(ctx)
		switch {
		case j == nil && peers == nil:
			return nil, nil, fmt.Errorf("asking the control plane how to gossip (no peer in Config.Bootstrap tells, and nothing is left of an earlier run): %w", errors.Join(err, ferr))
		case j == nil:
			m.log.Warn("the control plane does not answer: a peer told how to gossip", "error", err)
			j = peers
			j.CAs = nil // it is no authority on these
		default:
			// A peer is no authority on keys: whom it names is only asked.
			m.log.Warn("the control plane does not answer: starting from what an earlier run left", "error", err)
			if peers != nil {
				j.Seeds, told = append(peers.Seeds, j.Seeds...), peers.GossipKeys
			}
			if len(j.GossipKeys) == 0 {
				j.GossipKeys, told = told, nil // there are none of ours
			}
		}
	}
	if len(j.GossipKeys) == 0 && !observes {
		return nil, nil, fmt.Errorf("nobody tells the keys of the gossip pool: %w", cmp.Or(err, errNoKeys))
	}
	if ca, ok := m.identity.(*identity.StepCA); ok && err == nil {
		if err := ca.SetOthers(append(slices.Clip(m.cfg.Bootstrap.OtherCAs), j.CAs...)); err != nil {
			m.log.Warn("the control plane named servers of the certificate authority that can't be asked", "error", err)
		}
	}
	m.keys.set(j.GossipKeys)
	return j, told, saveJoin(dir, j)
}

var errNoKeys = errors.New("the control plane takes this process for an observer")

func (m *Mesh) controlJoin(ctx context.Context, observes bool) (*wire.Join, error) {
	q := url.Values{}
	if observes {
		q.Set("observes", "1")
	}
	raw, err := m.controlGet(ctx, wire.PathJoin, q, controlTimeout, wire.MaxJoinBytes)
	if err != nil {
		return nil, err
	}
	return parseJoin(raw)
}

// peersJoin is what a peer says about gossip, nil when none does.
func (m *Mesh) peersJoin(ctx context.Context) (j *wire.Join) {
	m.askPeers(ctx, wire.PathJoin, nil, wire.MaxJoinBytes, func(raw []byte) (err error) {
		j, err = parseJoin(raw)
		return err
	})
	return j
}

// answerJoin tells a peer how to gossip, with members that are there now: the control plane may not be.
func (m *Mesh) answerJoin() (status int, body []byte) {
	g := m.gossip
	keys := m.keys.get()
	if g == nil || keys == nil {
		return http.StatusNotFound, nil
	}
	j := wire.Join{GossipKeys: keys, ObserveBeyond: m.observeBeyond, ProbeInterval: m.probeInterval, Seeds: []string{g.Addr().String()}}
	for _, p := range g.Members() {
		if !p.Self && p.Suspect.IsZero() && len(j.Seeds) < toldSeeds {
			j.Seeds = append(j.Seeds, p.Addr.String())
		}
	}
	raw, err := json.Marshal(j)
	if err != nil {
		return http.StatusInternalServerError, nil
	}
	return http.StatusOK, raw
}

// parseJoin reads an answer about gossip, and checks what joining takes for granted.
func parseJoin(raw []byte) (*wire.Join, error) {
	j := new(wire.Join)
	if err := strictjson.Unmarshal(raw, j); err != nil {
		return nil, fmt.Errorf("the answer about gossip: %w", err)
	}
	if n := len(j.GossipKeys); n == 0 && j.ObserveBeyond <= 0 || n > maxGossipKeys || slices.ContainsFunc(j.GossipKeys, func(k []byte) bool { return len(k) != 32 }) {
		return nil, fmt.Errorf("the answer about gossip: want 1 to %d keys of 32 bytes", maxGossipKeys)
	}
	j.Seeds = j.Seeds[:min(len(j.Seeds), maxSeeds)]
	j.CAs = j.CAs[:min(len(j.CAs), maxCAs)]
	if j.ProbeInterval != 0 {
		j.ProbeInterval = min(max(j.ProbeInterval, pace.MinProbeInterval), pace.MaxProbeInterval)
	}
	for _, s := range j.Seeds {
		if err := gossip.CheckSeed(s); err != nil {
			return nil, fmt.Errorf("the answer about gossip: %w", err)
		}
	}
	return j, nil
}

// loadJoin returns what saveJoin wrote, nil when there is nothing.
func loadJoin(dir string) (*wire.Join, error) {
	if dir == "" {
		return nil, nil
	}
	f, err := os.Open(filepath.Join(dir, joinFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, wire.MaxJoinBytes))
	if err != nil {
		return nil, err
	}
	return parseJoin(raw)
}

func saveJoin(dir string, j *wire.Join) error {
	if dir == "" {
		return nil
	}
	j.Seeds = j.Seeds[:min(len(j.Seeds), maxSeeds)]
	raw, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, joinFile), raw, 0o600)
}
