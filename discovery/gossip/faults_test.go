package gossip_test

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/discovery/internal/testlog"
)

// What package faults tries among real processes, on a virtual clock.

// crowd starts n members of a domain, all of whom serve payments and know all.
func (d *domain) crowd(t *testing.T, n int) (nodes []*node, all []string) {
	t.Helper()
	for i := range n {
		ip := fmt.Sprintf("10.0.%d.%d", i%2, 1+i)
		nodes, all = append(nodes, d.member(t, "payments", ip, "10.0.0.1:7946")), append(all, ip)
		nodes[i].serve(t, "payments")
	}
	all = sorted(all)
	for _, node := range nodes {
		node.within(t, 10*time.Second, "payments", all...)
	}
	return nodes, all
}

// newcomer is news for the pool: a member that serves orders. It returns the address.
func (d *domain) newcomer(t *testing.T, keys ...[]byte) string {
	t.Helper()
	n := d.startWith(t, "10.0.0.77", gossip.Config{Seeds: []string{"10.0.0.1:7946"}, Identity: d.credential(t, "orders"), Keys: keys})
	n.serve(t, "orders")
	return n.host.Addr().String()
}

// lose makes so many of a hundred packets, and attempts to connect, disappear.
func (f *fabric) lose(percent int) {
	random := rand.New(rand.NewPCG(1, 2)) // under the fabric's lock
	f.setCut(func(_, _ netip.Addr) bool { return random.IntN(100) < percent })
}

// rotate rolls one step after the other over the members, a moment apart.
func rotate(t *testing.T, nodes []*node, pause time.Duration, steps ...[][]byte) {
	t.Helper()
	for _, keys := range steps {
		for _, n := range nodes {
			if err := n.SetKeys(keys); err != nil {
				t.Fatal(err)
			}
			<-time.After(pause)
		}
	}
}

// rotation is what mesh keyring install, use and remove make of a pool with key 1.
func rotation() [][][]byte { return [][][]byte{{key(1), key(2)}, {key(2), key(1)}, {key(2)}} }

func TestFifthOfAllPacketsIsLost(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		nodes, all := d.crowd(t, 10)
		f.lose(20)
		<-time.After(2 * time.Minute)
		late := d.newcomer(t)
		for _, n := range nodes {
			n.within(t, 30*time.Second, "orders", late)
			n.within(t, time.Minute, "payments", all...) // who is doubted comes back while it goes on
		}
	})
}

func TestKeysAreRotatedWhilePacketsAreLost(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		nodes, all := d.crowd(t, 10)
		f.lose(20)
		rotate(t, nodes, 500*time.Millisecond, rotation()...)
		late := d.newcomer(t, key(2))
		for _, n := range nodes {
			n.within(t, 30*time.Second, "orders", late)
			n.within(t, time.Minute, "payments", all...)
		}
		f.setCut(nil)
		for _, n := range nodes {
			n.within(t, 30*time.Second, "payments", all...)
		}
	})
}

// One side is told, with the control plane on it, the other one is not: it finds back when it has been told, too.
func TestKeysAreRotatedOnOneSideOfAPartition(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		nodes, all := f.domain(t, "example.test").crowd(t, 6)
		f.setCut(func(from, to netip.Addr) bool { return from.As4()[2] != to.As4()[2] })
		told, untold := []*node{nodes[0], nodes[2], nodes[4]}, []*node{nodes[1], nodes[3], nodes[5]}
		for _, n := range told {
			n.within(t, time.Minute, "payments", suspects(all, "10.0.1.")...)
		}
		rotate(t, told, time.Second, rotation()...)
		<-time.After(5 * time.Minute)
		f.hostile = true // two pools now knock at each other's door
		f.setCut(nil)
		told[0].stays(t, time.Minute, all[:3]...)
		untold[0].stays(t, time.Minute, all[3:]...)
		if r := told[0].Refused(); r.Sealed == 0 {
			t.Errorf("the old key was not noticed: %+v", r)
		}
		rotate(t, untold, time.Second, [][]byte{key(2)})
		for _, n := range nodes {
			n.within(t, 25*time.Second, "payments", all...)
		}
	})
}

// A process that stands still for 20 s, as SIGSTOP has it, but for its timers: what was sent to it meanwhile comes all at once.
func TestPause(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		nodes, all := d.crowd(t, 8)
		frozen := nodes[3]
		thaw := f.pause(frozen.host)
		rest := suspects(all, frozen.host.Addr().String())
		for _, n := range nodes {
			if n != frozen {
				n.within(t, 20*time.Second, "payments", rest...)
			}
		}
		late := d.newcomer(t)
		<-time.After(20 * time.Second)
		thaw()
		for _, n := range nodes {
			n.within(t, 15*time.Second, "payments", all...)
			n.within(t, 15*time.Second, "orders", late)
		}
	})
}

// Members who are flooded, by somebody without the key and by somebody with it, hear each other all the same, and tell of it in a
// few lines.
func TestFlood(t *testing.T) {
	for who, k := range map[string][]byte{"member": key(1), "stranger": key(9)} {
		t.Run(who, func(t *testing.T) {
			inFabric(t, func(t *testing.T, f *fabric) {
				var told testlog.Buffer
				a := f.startWith(t, ipA, gossip.Config{Logger: slog.New(slog.NewTextHandler(&told, nil))})
				b := f.start(t, ipB, seedA)
				b.serve(t, "payments")
				a.within(t, 3*time.Second, "payments", ipB)
				evil := f.attacker(t, k)
				before := live()
				for range 20 {
					for range 500 {
						evil.packet(t, ipA, []byte("\x09\x00garbage"))
						evil.packet(t, ipB, []byte{77})
					}
					synctest.Wait()
					<-time.After(100 * time.Millisecond)
				}
				b.serve(t, "orders")
				a.within(t, 2*time.Second, "orders", ipB)
				a.within(t, 10*time.Second, "payments", ipB)
				if after := live(); after > before+4<<20 {
					t.Errorf("the flood left %d KiB", (after-before)>>10)
				}
				r := a.Refused()
				if lines := strings.Count(told.String(), " refused="); r.Sealed+r.Messages < 5000 || lines > 10 {
					t.Errorf("%d lines tell of %+v", lines, r)
				}
			})
		})
	}
}
