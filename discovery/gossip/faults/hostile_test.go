package faults_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/internal/testca"
)

// Whatever somebody does who has the pool's key and a certificate of the trust domain: nobody crashes or is thought to have, nobody's
// memory grows by much, and all tell of it.
func TestIntruder(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	all := pool(t, n)
	const room = 100 << 20 // bytes; without the race detector it takes less than half
	targets := make([]string, members)
	for i := range targets {
		targets[i] = n.addr(i)
	}
	ns := n.host(t, members)
	for _, what := range []struct {
		name    string
		counter func(gossip.Refused) uint64
	}{
		{"flood", func(r gossip.Refused) uint64 { return min(r.Sealed, r.Messages) }},
		{"bombs", func(r gossip.Refused) uint64 { return r.Messages }},
		{"state", func(r gossip.Refused) uint64 { return r.Messages + r.Streams }}, // as too large, or as too slow
		{"name", func(r gossip.Refused) uint64 { return r.Messages }},
		{"stall", func(r gossip.Refused) uint64 { return r.Streams }},
	} {
		t.Run(what.name, func(t *testing.T) {
			before := make([]uint64, members)
			memory := make([]int, members)
			for i, p := range all {
				before[i], memory[i] = what.counter(p.told(t)), p.peak(t)
				p.mark()
			}
			hit := targets
			if what.name == "state" {
				hit = targets[:lasting(members, 2)] // to make 100 MB takes longer than to refuse it
			}
			sp := spec{
				Role: "attack", Attack: what.name, Targets: hit, Instance: all[0].Instance, Addr: n.addr(members), Key: 1, Label: all[0].Label,
				Certs: n.certs(t, "evil"), Lies: true,
			}
			began := time.Now()
			start(t, ns, sp).finish(t)
			took := time.Since(began)
			var most uint64
			grown := 0
			for i, p := range all {
				got := what.counter(p.told(t)) - before[i]
				most = max(most, got)
				grown = max(grown, p.peak(t)-memory[i])
				if least, most := p.since(); least < members-1 || most > members {
					t.Errorf("member %d saw %d to %d ready", i, least, most)
				}
				if i < len(hit) && got == 0 || !strings.Contains(p.stderr.String(), " refused=") {
					t.Errorf("member %d counted %d, and logged:\n%s", i, got, p.stderr.String())
				}
				if lines := strings.Count(p.stderr.String(), "\n"); lines > 300 {
					t.Errorf("member %d logged %d lines", i, lines)
				}
			}
			if grown > room {
				t.Errorf("somebody's memory has grown by %d MiB", grown>>20)
			}
			allKnow(t, "afterwards", all, members)
			t.Logf("%v; a member refused up to %d, and its memory grew by at most %d MiB", took.Round(time.Millisecond), most, grown>>20)
		})
	}
}

// Who announces a service that its certificate is not for is left out, and told of by all who look for the service.
func TestLiar(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	all := pool(t, n)
	sp := n.spec(t, members, 0)
	sp.Certs, sp.Lies = n.certs(t, "evil"), true
	liar := start(t, n.host(t, members), sp)
	liar.await(t, "the liar", func(v view) bool { return v.Ready == members+1 })
	wait(lasting(30*time.Second, 2*time.Second))
	for i, p := range all {
		if least, most := p.since(); most > members || least < 0 {
			t.Errorf("member %d believed it", i)
		}
		if p.told(t).Lies == 0 || !strings.Contains(p.stderr.String(), "it is evil by its certificate") {
			t.Errorf("member %d tells nothing:\n%s", i, p.stderr.String())
		}
	}
	allKnow(t, "beside a liar", all, members)
}

// Two meshes that share a network, and by mistake a key, do not mix though each was told of the other's members.
func TestTwoMeshes(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	cas := []*testca.CA{n.ca, newCA(t, "other.test")}
	const each = 3
	var all []*process
	for i := range 2 * each {
		n.ca = cas[i%2]
		all = append(all, start(t, n.host(t, i), n.spec(t, i, 0, 1)))
	}
	allKnow(t, "apart", all, each)
	wait(lasting(30*time.Second, 7*time.Second))
	for i, p := range all {
		if _, most := p.since(); most > each {
			t.Errorf("member %d knew %d", i, most)
		}
	}
	for i, p := range all[:2] {
		if r := p.told(t); r.Sealed+r.Streams == 0 {
			t.Errorf("seed %d counted nothing of the other mesh's: %+v", i, r)
		}
	}
}

// All packets of half a minute, in which one member changed, one left and one was killed, are sent once more as they were: nobody believes
// what is old.
func TestReplay(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	all := pool(t, n)
	replayer := start(t, n.name, spec{Role: "replay"})
	changed, left, killed := all[3], all[4], all[5]
	rest := append(append([]*process(nil), all[:4]...), all[6:]...)
	changed.say(t, heavier)
	for i, p := range rest {
		p.await(t, fmt.Sprintf("changed, member %d", i), func(v view) bool { return v == view{Ready: members, Heavy: 1} })
	}
	left.signal(t, syscall.SIGTERM)
	killed.signal(t, syscall.SIGKILL)
	for i, p := range rest {
		p.await(t, fmt.Sprintf("one left, one was killed, member %d", i), func(v view) bool { return v == view{Ready: members - 2, Suspect: 1, Heavy: 1} })
	}
	wait(lasting(20*time.Second, time.Second))
	changed.say(t, heavier)
	for i, p := range rest {
		p.await(t, fmt.Sprintf("changed again, member %d", i), func(v view) bool { return v.Heavy == 2 })
		p.mark()
	}
	replayer.say(t, "\n")
	replayer.finish(t)
	t.Log(strings.TrimSpace(replayer.stderr.String()))
	wait(5 * time.Second)
	for i, p := range rest {
		if least, most := p.since(); least < members-3 || most > members-2 {
			t.Errorf("member %d saw %d to %d ready", i, least, most)
		}
		p.await(t, fmt.Sprintf("after all, member %d", i), func(v view) bool { return v.Ready == members-2 && v.Heavy == 2 })
	}
}
