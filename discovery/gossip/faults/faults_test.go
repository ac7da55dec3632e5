package faults_test

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// lasting is how long a failure lasts, or how often it comes: longer by night.
func lasting[T any](nightly, otherwise T) T {
	if os.Getenv("MESH_NIGHTLY") != "" {
		return nightly
	}
	return otherwise
}

const members = 9

var specs atomic.Int32 // so that each process has a name of its own

// pool starts members, all through the first one, and waits until all know all.
func pool(t *testing.T, n *network) []*process {
	t.Helper()
	var all []*process
	for i := range members {
		all = append(all, start(t, n.host(t, i), n.spec(t, i, 0)))
	}
	allKnow(t, "after the start", all, members)
	return all
}

// spec is that of host i, with these seeds.
func (n *network) spec(t *testing.T, i int, seeds ...int) spec {
	t.Helper()
	sp := spec{Instance: fmt.Sprintf("%s-%d", n.name, specs.Add(1)), Addr: n.addr(i), Key: 1, Weight: 1, Label: n.ca.TrustDomain().Name()}
	sp.Certs = n.certs(t, "all")
	for _, s := range seeds {
		if s != i {
			sp.Seeds = append(sp.Seeds, fmt.Sprintf("%s:%d", n.addr(s), port))
		}
	}
	return sp
}

func allKnow(t *testing.T, when string, all []*process, n int) {
	t.Helper()
	for i, p := range all {
		p.await(t, fmt.Sprintf("%s, member %d", when, i), func(v view) bool { return v == view{Ready: n} })
	}
}

func wait(d time.Duration) { <-time.After(d) }

// Both sides keep serving whom they can reach, forget nobody, and are whole again soon after the heal.
func TestPartition(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	all := pool(t, n)
	const third = members / 3
	for i := range third {
		n.plug(t, members-1-i, "two")
	}
	split := time.Now()
	for i, p := range all {
		mine := members - third
		if i >= mine {
			mine = third
		}
		p.await(t, fmt.Sprintf("split, member %d", i), func(v view) bool { return v == view{Ready: mine, Suspect: members - mine} })
	}
	t.Logf("noticed by all after %v", time.Since(split).Round(time.Millisecond))
	wait(time.Until(split.Add(lasting(60*time.Second, 12*time.Second))))
	for i := range third {
		n.plug(t, members-1-i, "one")
	}
	healed := time.Now()
	allKnow(t, "after the heal", all, members)
	t.Logf("whole %v after the heal", time.Since(healed).Round(time.Millisecond))
}

// A fifth of all packets is lost: news arrive all the same, and whoever is doubted comes back.
func TestLoss(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	all := pool(t, n)
	n.lose(t, 20)
	wait(lasting(5*time.Minute, 10*time.Second))
	all[4].say(t, heavier)
	doubts := 0
	for i, p := range all {
		p.await(t, fmt.Sprintf("member %d", i), func(v view) bool { return v == view{Ready: members, Heavy: 1} })
		p.mu.Lock()
		doubts += p.doubts
		p.mu.Unlock()
	}
	if !n.lost(t) {
		t.Error("nothing was lost: this test tests nothing")
	}
	t.Logf("%d doubts", doubts)
}

// Who is frozen is held suspect, and is back when it goes on; it then knows all others.
func TestPause(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	all := pool(t, n)
	frozen, others := all[3], append(append([]*process(nil), all[:3]...), all[4:]...)
	frozen.signal(t, syscall.SIGSTOP)
	stopped := time.Now()
	for i, p := range others {
		p.await(t, fmt.Sprintf("frozen, other %d", i), func(v view) bool { return v == view{Ready: members - 1, Suspect: 1} })
	}
	t.Logf("noticed by all after %v", time.Since(stopped).Round(time.Millisecond))
	wait(time.Until(stopped.Add(lasting(20*time.Second, 10*time.Second))))
	frozen.signal(t, syscall.SIGCONT)
	thawed := time.Now()
	allKnow(t, "after the pause", all, members)
	t.Logf("whole %v after it goes on", time.Since(thawed).Round(time.Millisecond))
}

// Without the seed the pool goes on, lets others in by whoever is left, and a member finds back by those that it remembers.
func TestSeedGone(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	all := pool(t, n)
	home := n.spec(t, members, 0)
	home.Dir = t.TempDir()
	ns := n.host(t, members)
	all = append(all, start(t, ns, home))
	allKnow(t, "with one that remembers", all, members+1)

	if err := all[0].end(); err != nil {
		t.Fatal(err)
	}
	all = all[1:]
	gone := func(when string, ready int) {
		t.Helper()
		for i, p := range all {
			p.await(t, fmt.Sprintf("%s, member %d", when, i), func(v view) bool { return v.Ready == ready })
		}
	}
	gone("the seed is gone", members)
	all = append(all, start(t, n.host(t, members+1), n.spec(t, members+1, 0, 1)))
	gone("one more, by the second seed", members+1)

	last := len(all) - 2
	if err := all[last].end(); err != nil {
		t.Fatal(err)
	}
	home.Instance += "-again"
	all[last] = start(t, ns, home) // its only seed is gone
	gone("one is restarted", members+1)
}

// Who has another key sees nobody, and nobody sees it.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	all := pool(t, n)
	sp := n.spec(t, members, 0, 1, 2)
	sp.Key = 2
	stranger := start(t, n.host(t, members), sp)
	stranger.await(t, "the stranger", func(v view) bool { return v.Ready == 1 })
	wait(lasting(time.Minute, 8*time.Second)) // two attempts, and more
	for i, p := range append(all, stranger) {
		want := members
		if p == stranger {
			want = 1
		}
		if _, most := p.since(); most != want {
			t.Errorf("member %d knew %d", i, most)
		}
	}
	if n := all[0].told(t).Sealed; n == 0 || !strings.Contains(all[0].stderr.String(), "does not open with the pool's keys") {
		t.Errorf("of the stranger %d messages were counted, and this was logged:\n%s", n, all[0].stderr.String())
	}
}
