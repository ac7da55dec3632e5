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
	net     *network
	members []*member
	starts  int // of processes so far
	losses  []int
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
	g, err := gossip.Join(ctx, gossip.Config{
		BindAddr: netip.AddrPortFrom(ip, gossipPort), Keys: [][]byte{make([]byte, 32)}, Seeds: seeds, Network: h,
	})
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

// burst starts n processes within a second.
func burst(ctx context.Context, net *network, n int) (*pool, error) {
	p := &pool{net: net, members: make([]*member, n), starts: n}
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

// each calls f for every member, on as many goroutines, and joins the errors.
func (p *pool) each(f func(*member) error) error {
	errs := make([]error, len(p.members))
	var wg sync.WaitGroup
	for i, m := range p.members {
		wg.Go(func() { errs[i] = f(m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (p *pool) close() error {
	return p.each(func(m *member) error { return m.Close() })
}

func (p *pool) services() []string {
	var all []string
	for i := 0; i < len(p.members); i += perService {
		all = append(all, serviceOf(i))
	}
	return all
}

// knows counts the endpoints that m can use, and those that it holds for gone.
func (m *member) knows(services []string) (usable, suspect int) {
	for _, s := range services {
		for _, ep := range m.Lookup(s).Endpoints {
			if ep.Suspect {
				suspect++
			} else {
				usable++
			}
		}
	}
	return usable, suspect
}

// sees reports whether m knows the endpoint as it was announced.
func (m *member) sees(ep discovery.Endpoint) bool {
	for _, have := range m.Lookup(ep.Service).Endpoints {
		if have.Addr == ep.Addr {
			return have.Weight == ep.Weight && !have.Suspect
		}
	}
	return false
}

// lost reports whether m knows that nobody serves at addr any more.
func (m *member) lost(service string, addr netip.AddrPort) bool {
	for _, have := range m.Lookup(service).Endpoints {
		if have.Addr == addr {
			return have.Suspect
		}
	}
	return true
}
