package mesh_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
)

// roads is the operating system's network with a few addresses at which things go wrong.
type roads struct {
	net.Dialer
	net.ListenConfig
	mu        sync.Mutex
	hang      map[string]bool // by host
	refuse    map[string]bool
	elsewhere map[string]string // host to where a connection to it leads
	dialed    []string
}

func (r *roads) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.dialed = append(r.dialed, host)
	hang, refuse, to := r.hang[host], r.refuse[host], r.elsewhere[host]
	r.mu.Unlock()
	switch {
	case hang:
		<-ctx.Done()
		return nil, ctx.Err()
	case refuse:
		return nil, syscall.ECONNREFUSED
	case to == "":
		to = net.JoinHostPort("127.0.0.1", port)
	}
	return r.Dialer.DialContext(ctx, network, to)
}

// took returns the hosts dialed since it was last called.
func (r *roads) took() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.dialed = nil }()
	return r.dialed
}

// TestSeveralAddresses: an endpoint with several addresses is reached by any that works, which is remembered.
func TestSeveralAddresses(t *testing.T) {
	const first, v6, second = "192.0.2.1", "2001:db8::1", "192.0.2.2"
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments := w.join("payments")
	ln := w.listen(payments)
	w.echo(ln)
	other := w.listen(w.join("ledger"))
	w.echo(other)
	port := addrOf(ln).Port()
	ep := endpoint(netip.AddrPortFrom(netip.MustParseAddr(first), port))
	ep.Also = discovery.AddrsOf(netip.MustParseAddr(second), netip.MustParseAddr(v6))

	for name, c := range map[string]struct {
		roads *roads
		took  []string
		then  []string // by the next dial
		fails bool
	}{
		"the first one answers":        {&roads{}, []string{first}, []string{first}, false},
		"the first one refuses":        {&roads{refuse: map[string]bool{first: true}}, []string{first, v6}, []string{v6}, false},
		"the first one says nothing":   {&roads{hang: map[string]bool{first: true}}, []string{first, v6}, []string{v6}, false},
		"both families say nothing":    {&roads{hang: map[string]bool{first: true, v6: true}}, []string{first, v6, second}, []string{second}, false},
		"another process is there":     {&roads{elsewhere: map[string]string{first: other.Addr().String()}}, []string{first, v6}, []string{v6}, false},
		"none of them can be reached":  {&roads{refuse: map[string]bool{first: true, v6: true, second: true}}, []string{first, v6, second}, nil, true},
		"all of them are someone else": {&roads{elsewhere: map[string]string{first: other.Addr().String(), v6: other.Addr().String(), second: other.Addr().String()}}, []string{first, v6, second}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			orders := w.join("orders", func(cfg *mesh.Config) {
				cfg.Network, cfg.Discovery = c.roads, tell(ep)
			})
			got, err := orders.Dial(t.Context(), "tcp", "payments")
			if took := c.roads.took(); !slices.Equal(took, c.took) || (err != nil) != c.fails {
				t.Fatalf("dialed %v, want %v; %v", took, c.took, err)
			}
			if c.fails {
				return
			}
			defer got.Close() // so that the next one is not this one again
			again, err := orders.Dial(t.Context(), "tcp", "payments")
			if took := c.roads.took(); err != nil || !slices.Equal(took, c.then) {
				t.Fatalf("then dialed %v, want %v; %v", took, c.then, err)
			}
			defer again.Close()
			if err := errors.Join(ping(got), ping(again)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAlsoAdvertise: what a process says of itself reaches who dials it.
func TestAlsoAdvertise(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	ln := w.listen(w.join("payments", func(cfg *mesh.Config) {
		cfg.Advertise, cfg.AlsoAdvertise = "192.0.2.1", []string{"2001:db8::1", "192.0.2.2"}
	}))
	w.echo(ln)
	r := &roads{refuse: map[string]bool{"192.0.2.1": true, "2001:db8::1": true}}
	orders := w.join("orders", func(cfg *mesh.Config) { cfg.Network = r })
	c, err := orders.Dial(t.Context(), "tcp", "payments")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(c); err != nil {
		t.Error(err)
	}
	if took := r.took(); !slices.Equal(took, []string{"192.0.2.1", "2001:db8::1", "192.0.2.2"}) {
		t.Errorf("dialed %v", took)
	}
	for _, bad := range [][]string{{"::"}, {"example.org"}, {"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}} {
		_, err := mesh.Join(t.Context(), mesh.Config{Service: "payments", Identity: w.source("payments"), Policy: w.rules, AlsoAdvertise: bad})
		if err == nil || !strings.Contains(err.Error(), "Config.AlsoAdvertise") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
