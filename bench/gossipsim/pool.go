package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
)

// perService is how many instances a service of the simulated mesh has.
const perService = 10

// A simulated pool: N members, each of which serves one port of one service.
type pool struct {
	net      *network
	members  []*member
	starts   int // of processes so far
	started  time.Time
	services []string
	versions uint16 // of what members announced
	edit     func(c *gossip.Config, service string) error
}

// A member is one process of the pool.
type member struct {
	*gossip.Member
	index   int
	host    *host
	service string
	addr    netip.AddrPort // of the service
}

func serviceOf(index int) string { return fmt.Sprintf("service-%04d", index/perService) }

func addressOf(start int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24|uint32(start+1)) //nolint:gosec // below 2^24
	return netip.AddrFrom4(b)
}

const (
	gossipPort = 7946
	seedCount  = 3 // the first ones, which no scenario stops
)

// start runs the process with this index, with seeds, and registers its service. The caller stores it.
func (p *pool) start(ctx context.Context, index, start int) (*member, error) {
	ip := addressOf(start)
	h := p.net.host(ip)
	var seeds []string
	for i := range seedCount {
		if seed := addressOf(i); seed != ip {
			seeds = append(seeds, netip.AddrPortFrom(seed, gossipPort).String())
		}
	}
	cfg := gossip.Config{BindAddr: netip.AddrPortFrom(ip, gossipPort), Keys: [][]byte{make([]byte, 32)}, Seeds: seeds, Network: h}
	if p.edit != nil {
		if err := p.edit(&cfg, serviceOf(index)); err != nil {
			return nil, err
		}
	}
	g, err := gossip.Join(ctx, cfg)
	if err != nil {
		return nil, err
	}
	m := &member{Member: g, index: index, host: h, service: serviceOf(index), addr: netip.AddrPortFrom(ip, 443)}
	return m, m.Register(ctx, m.endpoint(1))
}

// endpoint is what m announces, with a weight that tells one announcement from another.
func (m *member) endpoint(weight uint16) discovery.Endpoint {
	return discovery.Endpoint{Service: m.service, Addr: m.addr, Zone: "zone-1", Weight: weight}
}

// burst starts n processes within a second. Edit, unless nil, changes the configuration of each.
func burst(ctx context.Context, net *network, n int, edit func(c *gossip.Config, service string) error) (*pool, error) {
	p := &pool{net: net, starts: n, started: time.Now(), versions: 1, edit: edit}
	for i := 0; i < n; i += perService {
		p.services = append(p.services, serviceOf(i))
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	started := make([]*member, n)
	for i := range n {
		wg.Go(func() {
			time.Sleep(time.Duration(rand.Int64N(int64(time.Second)))) //nolint:gosec,forbidigo // the simulated second in which all start
			started[i], errs[i] = p.start(ctx, i, i)
		})
	}
	wg.Wait()
	p.members = started
	return p, errors.Join(errs...)
}

func (p *pool) close() error {
	errs := make([]error, len(p.members))
	var wg sync.WaitGroup
	for i, m := range p.members {
		wg.Go(func() { errs[i] = m.Close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (p *pool) size() int             { return len(p.members) }
func (p *pool) pause(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // of the virtual clock, which is what a simulation waits for
func (p *pool) now() time.Duration    { return time.Since(p.started) }

func (p *pool) knows(i int) (usable, suspect int) {
	for _, s := range p.services {
		for _, ep := range p.members[i].Lookup(s).Endpoints {
			if ep.Suspect {
				suspect++
			} else {
				usable++
			}
		}
	}
	return usable, suspect
}

func (p *pool) announce(ctx context.Context, i int) (uint16, error) {
	p.versions++
	m := p.members[i]
	return p.versions, m.Register(ctx, m.endpoint(p.versions))
}

func (p *pool) sees(i, j int, version uint16) bool {
	m := p.members[j]
	for _, have := range p.members[i].Lookup(m.service).Endpoints {
		if have.Addr == m.addr {
			return have.Weight >= version && !have.Suspect
		}
	}
	return false
}

func (p *pool) kill(i int) func(int) bool {
	victim := p.members[i]
	victim.host.kill()
	return func(by int) bool {
		for _, have := range p.members[by].Lookup(victim.service).Endpoints {
			if have.Addr == victim.addr {
				return have.Suspect
			}
		}
		return true
	}
}

func (p *pool) replace(ctx context.Context, i int) error {
	_ = p.members[i].Close() // its sockets may have been taken from it
	p.starts++
	m, err := p.start(ctx, i, p.starts-1)
	if err == nil {
		p.members[i] = m
	}
	return err
}

func (p *pool) restart(ctx context.Context, i int) error {
	if err := p.members[i].Leave(ctx); err != nil {
		return err
	}
	return p.replace(ctx, i)
}

func (p *pool) slander(victims map[int]bool) (pairs int) {
	at := make(map[netip.AddrPort]int, len(p.members))
	for i, m := range p.members {
		at[m.addr] = i
	}
	for _, m := range p.members {
		for _, s := range p.services {
			for _, ep := range m.Lookup(s).Endpoints {
				if i, lives := at[ep.Addr]; lives && ep.Suspect {
					victims[i] = true
					pairs++
				}
			}
		}
	}
	return pairs
}

func (p *pool) setLoss(share float64) { p.net.setLoss(share) }

func (p *pool) split(from int) {
	if from == 0 {
		p.net.split(nil)
		return
	}
	side := make(map[netip.Addr]bool)
	for _, m := range p.members[from:] {
		side[m.host.Addr()] = true
	}
	p.net.split(func(a netip.Addr) bool { return side[a] })
}

func (p *pool) sent() traffic {
	n := p.net
	t := traffic{packets: n.packets.Load(), bytes: n.bytes.Load(), streams: n.streams.Load(), overflow: n.overflow.Load()}
	for _, m := range p.members {
		t.mostStreamed = max(t.mostStreamed, m.host.streamed.Load())
	}
	return t
}
