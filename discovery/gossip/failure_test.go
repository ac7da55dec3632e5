package gossip_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/gossip"
)

const (
	ipA, ipB, ipC = "10.0.0.1", "10.0.0.2", "10.0.0.3"
	seedA         = ipA + ":7946"
)

func TestCrash(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a := f.start(t, ipA)
		b, c := f.start(t, ipB, seedA), f.start(t, ipC, seedA)
		b.serve(t, "payments")
		c.serve(t, "payments")
		a.within(t, time.Second, "payments", ipB, ipC)
		b.host.kill()
		took := a.within(t, 5*time.Second, "payments", ipB+"?", ipC)
		for _, m := range a.Members() {
			if dead := m.Instance == b.Instance(); dead == m.Suspect.IsZero() || m.Self != (m.Instance == a.Instance()) {
				t.Errorf("got %+v", m)
			}
		}
		c.within(t, 5*time.Second, "payments", ipB+"?", ipC)
		t.Logf("suspect after %v", took)
		// Half of the endpoints are left, so the dead one expires.
		a.stays(t, 54*time.Second, ipB+"?", ipC)
		a.within(t, 10*time.Second, "payments", ipC)
	})
}

func TestLastEndpointIsKeptLonger(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a := f.start(t, ipA)
		b := f.start(t, ipB, seedA)
		b.serve(t, "payments")
		a.within(t, time.Second, "payments", ipB)
		b.host.kill()
		a.within(t, 5*time.Second, "payments", ipB+"?")
		a.stays(t, 5*time.Minute, ipB+"?")
		a.within(t, 6*time.Minute, "payments")
	})
}

// When most of a service vanishes at once, it is likelier that we are cut off.
func TestMostVanish(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a := f.start(t, ipA)
		var nodes []*node
		for i := range 5 {
			nodes = append(nodes, f.start(t, fmt.Sprintf("10.0.1.%d", i), seedA))
			nodes[i].serve(t, "payments")
		}
		a.within(t, 5*time.Second, "payments", "10.0.1.0", "10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4")
		for _, n := range nodes[:3] {
			n.host.kill()
		}
		stale := []string{"10.0.1.0?", "10.0.1.1?", "10.0.1.2?", "10.0.1.3", "10.0.1.4"}
		a.within(t, 20*time.Second, "payments", stale...)
		a.stays(t, 2*time.Minute, stale...)
		f.start(t, ipB, seedA).serve(t, "payments") // half of them is back
		a.within(t, 2*time.Second, "payments", ipB, "10.0.1.3", "10.0.1.4")
	})
}

func TestSuspectGoesWhenAnotherServes(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a := f.start(t, ipA)
		b := f.start(t, ipB, seedA)
		b.serve(t, "payments")
		a.within(t, time.Second, "payments", ipB)
		b.host.kill()
		a.within(t, 5*time.Second, "payments", ipB+"?")
		a.stays(t, 2*time.Minute, ipB+"?")
		f.start(t, ipC, seedA).serve(t, "payments")
		a.within(t, time.Second, "payments", ipC)
	})
}

func TestRestartAtTheSameAddress(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a, b := f.start(t, ipA), f.start(t, ipB, seedA)
		b.serve(t, "payments")
		a.within(t, time.Second, "payments", ipB)
		b.host.kill()
		a.within(t, 5*time.Second, "payments", ipB+"?")
		again := f.start(t, ipB, seedA)
		a.within(t, time.Second, "payments") // before it serves anything
		again.serve(t, "orders")
		a.within(t, time.Second, "orders", ipB)
	})
}

func TestRestartAtAnotherGossipPort(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a, b := f.start(t, ipA), f.start(t, ipB, seedA)
		b.serve(t, "payments")
		a.within(t, time.Second, "payments", ipB)
		b.host.kill()
		a.within(t, 5*time.Second, "payments", ipB+"?")
		cfg := gossip.Config{Seeds: []string{seedA}, BindAddr: netip.MustParseAddrPort(ipB + ":7947")}
		f.startWith(t, ipB, cfg).serve(t, "payments") // at the same port as before
		a.within(t, time.Second, "payments", ipB)
	})
}

func TestRestartBeforeAnyoneNoticed(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a, b := f.start(t, ipA), f.start(t, ipB, seedA)
		b.serve(t, "payments")
		a.within(t, time.Second, "payments", ipB)
		b.host.kill()
		again := f.start(t, ipB, seedA)
		again.serve(t, "payments")
		start := time.Now()
		discoverytest.Await(t, a, "payments", func(eps []discovery.Endpoint) bool {
			return len(eps) == 1 && eps[0].Instance == again.Instance() && !eps[0].Suspect
		})
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the old instance was there for %v", took)
		}
	})
}

func TestLeaveIsSeenAtOnce(t *testing.T) {
	for name, before := range map[string]func(*testing.T, *node){
		"serving": func(*testing.T, *node) {},
		"after a withdrawal that is still on its way": func(t *testing.T, b *node) {
			if err := b.Deregister(t.Context(), discovery.Endpoint{Service: "payments"}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inFabric(t, func(t *testing.T, f *fabric) {
				a, b := f.start(t, ipA), f.start(t, ipB, seedA)
				b.serve(t, "payments")
				a.within(t, time.Second, "payments", ipB)
				before(t, b)
				start := time.Now()
				if err := b.Leave(t.Context()); err != nil {
					t.Fatal(err)
				}
				a.within(t, 0, "payments")
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("leaving took %v", took)
				}
				for _, m := range a.Members() {
					if !m.Self {
						t.Errorf("still a member: %+v", m)
					}
				}
			})
		})
	}
}

func TestPartitionHeals(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		const n = 6
		var nodes []*node
		var everybody []string
		for i := range n {
			ip := fmt.Sprintf("10.0.%d.%d", i%2, 1+i)
			nodes = append(nodes, f.start(t, ip, "10.0.0.1:7946"))
			nodes[i].serve(t, "payments")
			everybody = append(everybody, ip)
		}
		all := sorted(everybody)
		for _, node := range nodes {
			node.within(t, 5*time.Second, "payments", all...)
		}
		f.setCut(func(from, to netip.Addr) bool { return from.As4()[2] != to.As4()[2] })
		noticed := max(
			nodes[0].within(t, 60*time.Second, "payments", suspects(all, "10.0.1.")...),
			nodes[1].within(t, 60*time.Second, "payments", suspects(all, "10.0.0.")...))
		// Memberlist has forgotten the other side by then.
		<-time.After(5 * time.Minute)
		f.setCut(nil)
		var slowest time.Duration
		for _, node := range nodes {
			slowest = max(slowest, node.within(t, 15*time.Second, "payments", all...))
		}
		t.Logf("noticed after %v, healed after %v", noticed, slowest)
		if noticed > 10*time.Second {
			t.Errorf("it took %v until the other half was held gone", noticed)
		}
	})
}

func TestLossIsNotDeath(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		const n = 20
		var nodes []*node
		var all []string
		for i := range n {
			ip := fmt.Sprintf("10.0.0.%d", 1+i)
			nodes = append(nodes, f.start(t, ip, seedA))
			nodes[i].serve(t, "payments")
			all = append(all, ip)
		}
		for _, node := range nodes {
			node.within(t, 5*time.Second, "payments", sorted(all)...)
		}
		random := rand.New(rand.NewPCG(1, 2)) // under the fabric's lock
		f.setCut(func(_, _ netip.Addr) bool { return random.IntN(100) < 5 })
		nodes[0].stays(t, 2*time.Minute, sorted(all)...)
	})
}

func TestSeedComesLater(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		start := time.Now()
		b := f.start(t, ipB, seedA)
		if took := time.Since(start); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("Join took %v without a seed", took)
		}
		select {
		case <-b.Joined():
			t.Error("joined nobody")
		case <-time.After(time.Minute):
		}
		a := f.start(t, ipA)
		a.serve(t, "payments")
		b.within(t, 20*time.Second, "payments", ipA)
		<-b.Joined()
	})
}

func TestSeedRestartsAlone(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a, b, c := f.start(t, ipA), f.start(t, ipB, seedA), f.start(t, ipC, seedA)
		b.serve(t, "payments")
		c.within(t, time.Second, "payments", ipB)
		a.host.kill()
		<-time.After(5 * time.Minute)
		// It has no seeds itself: the others come back to it.
		again := f.start(t, ipA)
		again.within(t, 20*time.Second, "payments", ipB)
	})
}

func TestRemembersPeers(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		dir := t.TempDir()
		a := f.start(t, ipA)
		b := f.start(t, ipB, seedA)
		b.serve(t, "payments")
		c := f.startWith(t, ipC, gossip.Config{Seeds: []string{seedA}, Dir: dir})
		c.within(t, time.Second, "payments", ipB)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		a.host.kill()
		c.host.kill()
		<-time.After(5 * time.Minute) // b no longer looks for c all the time
		start := time.Now()
		c = f.startWith(t, ipC, gossip.Config{Seeds: []string{seedA}, Dir: dir})
		if took := time.Since(start); took > time.Second {
			t.Errorf("it took %v to find a remembered peer", took)
		}
		c.within(t, 0, "payments", ipB)
	})
}

// TestRemembersNewcomers kills a process two seconds after the peer came that is the only one left to find the pool through.
func TestRemembersNewcomers(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		dir := t.TempDir()
		a := f.start(t, ipA)
		c := f.startWith(t, ipC, gossip.Config{Seeds: []string{seedA}, Dir: dir})
		b := f.start(t, ipB, seedA)
		b.serve(t, "payments")
		c.within(t, time.Second, "payments", ipB)
		<-time.After(2 * time.Second)
		remembered, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		copied := t.TempDir() // as it was at the kill, which Close would change
		for _, e := range remembered {
			content, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(copied, e.Name()), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		a.host.kill()
		c.host.kill()
		c = f.startWith(t, ipC, gossip.Config{Seeds: []string{seedA}, Dir: copied})
		c.within(t, time.Second, "payments", ipB)
	})
}
