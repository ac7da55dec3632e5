package gossip

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/intramesh/mesh/internal/pace"
	"github.com/intramesh/mesh/internal/strictjson"
)

const (
	// peerMemory is how long a peer is remembered after it was last seen.
	peerMemory = 72 * time.Hour
	// maxPeersFile bounds the file, in bytes.
	maxPeersFile = 64 << 10
)

// peers remembers where members were.
type peers struct {
	path string // "" if not kept on disk

	mu      sync.Mutex
	seen    map[netip.AddrPort]time.Time
	saved   map[netip.AddrPort]time.Time // what the file holds
	savedAt time.Time
}

// loadPeers reads the file in dir. One that can't be understood costs only the memory.
func loadPeers(dir string, log *slog.Logger) (*peers, error) {
	p := &peers{seen: make(map[netip.AddrPort]time.Time)}
	if dir == "" {
		return p, nil
	}
	if err := atomicfile.MkdirAll(dir); err != nil {
		return nil, err
	}
	p.path = filepath.Join(dir, "peers.json")
	f, err := os.Open(p.path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPeersFile))
	if err == nil {
		err = p.parse(b)
	}
	if err != nil {
		log.Warn("gossip: forgot the peers", "path", p.path, "error", err)
		clear(p.seen)
	}
	p.trim(time.Now())
	return p, nil
}

// parse reads what save wrote.
func (p *peers) parse(b []byte) error {
	all, err := strictjson.Parse(b)
	if err != nil {
		return err
	}
	for _, m := range all.Members {
		addr, err := netip.ParseAddrPort(m.Name)
		if err != nil {
			return err
		}
		var t time.Time
		if err := t.UnmarshalText([]byte(m.Value.Text)); err != nil {
			return err
		}
		p.seen[addr] = t
	}
	return nil
}

// all returns the peers, the one seen last first.
func (p *peers) all() []netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byAge()
}

// anyOrder returns the peers shuffled, so that all have their turn.
func (p *peers) anyOrder() []ranked {
	var all []ranked
	for _, a := range p.all() {
		all = append(all, ranked{addr: a})
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // any order will do
	return all
}

// byAge returns the peers, the one seen last first. p.mu is held.
func (p *peers) byAge() []netip.AddrPort {
	s := lastFirst{slices.Collect(maps.Keys(p.seen)), p.seen}
	sort.Sort(s)
	return s.addrs
}

// lastFirst is a sort.Interface, which costs a program less than another instance of slices.SortFunc.
type lastFirst struct {
	addrs []netip.AddrPort
	seen  map[netip.AddrPort]time.Time
}

func (s lastFirst) Len() int           { return len(s.addrs) }
func (s lastFirst) Swap(i, j int)      { s.addrs[i], s.addrs[j] = s.addrs[j], s.addrs[i] }
func (s lastFirst) Less(i, j int) bool { return s.seen[s.addrs[i]].After(s.seen[s.addrs[j]]) }

// see notes those who live, and forgets those who left. It reorders living.
func (p *peers) see(living, left []netip.AddrPort, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range left {
		delete(p.seen, a)
	}
	now = now.UTC().Truncate(time.Second)
	rand.Shuffle(len(living), func(i, j int) { living[i], living[j] = living[j], living[i] }) //nolint:gosec // any will do
	alive := 0
	for _, a := range living {
		if _, known := p.seen[a]; known {
			p.seen[a] = now
			alive++
		}
	}
	// Of thousands only some are taken in: maps do not shrink, and the file changes with every new one.
	for _, a := range living {
		if alive >= pace.MaxPeers/2 && len(p.seen) >= pace.MaxPeers {
			break
		}
		if _, known := p.seen[a]; !known {
			p.seen[a] = now
			alive++
		}
	}
	p.trim(now)
}

func (p *peers) trim(now time.Time) {
	maps.DeleteFunc(p.seen, func(a netip.AddrPort, t time.Time) bool {
		return !a.IsValid() || now.Sub(t) > peerMemory
	})
	if len(p.seen) > pace.MaxPeers {
		for _, a := range p.byAge()[pace.MaxPeers:] {
			delete(p.seen, a)
		}
	}
}

// save writes the file if it holds other peers than are known, or is an hour old.
func (p *peers) save() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := func(_, _ time.Time) bool { return true }
	if p.path == "" || maps.EqualFunc(p.seen, p.saved, same) && time.Since(p.savedAt) < time.Hour {
		return nil
	}
	b, err := json.MarshalIndent(p.seen, "", "\t")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(p.path, b, 0o600); err != nil {
		return fmt.Errorf("remember peers: %w", err)
	}
	p.saved, p.savedAt = maps.Clone(p.seen), time.Now()
	return nil
}

// remember keeps the members of now for later.
func (m *Member) remember() error {
	m.peers.see(m.pool.living(), m.pool.takeLeft(), time.Now())
	return m.peers.save()
}
