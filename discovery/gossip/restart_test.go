package gossip_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/gossip"
)

// serveTurn announces payments as the process's nth start.
func serveTurn(t *testing.T, m *gossip.Member, ip netip.Addr, n uint16) {
	t.Helper()
	ep := discovery.Endpoint{Service: "payments", Addr: netip.AddrPortFrom(ip, 443), Weight: n}
	if err := m.Register(t.Context(), ep); err != nil {
		t.Fatal(err)
	}
}

// believes returns what is wrong with what m knows, unless there is one endpoint of payments, of the process's nth start, and one member at its
// gossip address.
func believes(m, restarted *gossip.Member, n uint16) error {
	at := 0
	for _, i := range m.Members() {
		if i.Addr == restarted.Addr() {
			at++
		}
	}
	eps := m.Lookup("payments").Endpoints
	if len(eps) != 1 || eps[0].Weight != n || eps[0].Suspect || eps[0].Instance != restarted.Instance() || at != 1 {
		return fmt.Errorf("it knows %d members there, and of payments %+v", at, eps)
	}
	return nil
}

// TestRestarts: whoever restarts at its address, in whatever way it ended, is all there within seconds for everyone, and what it
// announced before does not come back.
func TestRestarts(t *testing.T) {
	ends := map[string]func(*testing.T, *node){
		"leaves": func(t *testing.T, n *node) {
			if err := n.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"is killed": func(_ *testing.T, n *node) { n.host.kill() },
	}
	waits := map[string]time.Duration{
		"at once": 0, "when it is suspect": 1200 * time.Millisecond, "when it is held dead": 10 * time.Second, "when it is forgotten": 5 * time.Minute,
	}
	for how, end := range ends {
		for when, wait := range waits {
			for name, instance := range map[string]string{"as itself": "b", "as a new instance": ""} {
				for signed, identities := range map[string]bool{"signed": true, "unsigned": false} {
					t.Run(fmt.Sprintf("%s, restarts %s %s, %s", how, when, name, signed), func(t *testing.T) {
						inFabric(t, func(t *testing.T, f *fabric) { restart(t, f, end, wait, instance, identities) })
					})
				}
			}
		}
	}
}

func restart(t *testing.T, f *fabric, end func(*testing.T, *node), wait time.Duration, instance string, signed bool) {
	d := f.domain(t, "example.test")
	config := func(service, instance string) gossip.Config {
		cfg := gossip.Config{Seeds: []string{seedA, ipC + ":7946"}, Instance: instance}
		if signed {
			cfg.Identity = d.credential(t, service)
		}
		return cfg
	}
	others := []*node{f.startWith(t, ipA, config("orders", "")), f.startWith(t, ipC, config("orders", ""))}
	for i := range 2 {
		others = append(others, f.startWith(t, fmt.Sprintf("10.0.1.%d", i), config("orders", "")))
	}
	await := func(b *node, n uint16) {
		start, timeout := time.Now(), time.After(5*time.Second)
		for i := 0; i < len(others); {
			err := believes(others[i].Member, b.Member, n)
			if err == nil {
				i++
				continue
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-timeout:
				t.Fatalf("%v, %v after start %d: %v", others[i].host.Addr(), time.Since(start), n, err)
			}
		}
		t.Logf("start %d: known after %v", n, time.Since(start))
	}
	b := f.startWith(t, ipB, config("payments", instance))
	serveTurn(t, b.Member, b.host.Addr(), 1)
	await(b, 1)
	end(t, b)
	<-time.After(wait)
	b = f.startWith(t, ipB, config("payments", instance))
	serveTurn(t, b.Member, b.host.Addr(), 2)
	await(b, 2)
	if n := len(b.Members()); n != len(others)+1 {
		t.Errorf("it knows %d members", n)
	}
	if err := believes(b.Member, b.Member, 2); err != nil {
		t.Errorf("itself: %v", err)
	}
	for range 24 {
		<-time.After(5 * time.Second)
		for _, o := range others {
			if err := believes(o.Member, b.Member, 2); err != nil {
				t.Fatalf("%v, later: %v", o.host.Addr(), err)
			}
		}
	}
}

// TestRestartOnSockets does it with the operating system's sockets.
func TestRestartOnSockets(t *testing.T) {
	for _, instance := range []string{"", "b"} {
		for _, leaves := range []bool{true, false} {
			t.Run(fmt.Sprintf("as %q, leaves %v", instance, leaves), func(t *testing.T) {
				a := join(t, config())
				c := join(t, config(a.Addr().String()))
				cfg := config(a.Addr().String())
				cfg.Instance = instance
				for n := range uint16(3) {
					b := join(t, cfg)
					cfg.BindAddr = b.Addr()
					serveTurn(t, b, b.Addr().Addr(), n+1)
					for _, o := range []*gossip.Member{a, c} {
						discoverytest.Await(t, o, "payments", func([]discovery.Endpoint) bool { return believes(o, b, n+1) == nil })
					}
					if leaves {
						if err := b.Leave(t.Context()); err != nil {
							t.Fatal(err)
						}
					}
					if err := b.Close(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}
