package light_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/intramesh/mesh/bench/gossipsim/light"
	"github.com/intramesh/mesh/internal/pace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pool(t *testing.T, n int) *light.Pool {
	t.Helper()
	p, err := light.New(light.Config{Members: n, Seeds: 3, PerService: 10, Latency: 500 * time.Microsecond, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// whole waits until all know all.
func whole(t *testing.T, p *light.Pool, n int) {
	t.Helper()
	for range 3000 {
		if know := func(i int) bool { usable, suspect := p.Knows(i); return usable == n && suspect == 0 }; all(n, know) {
			return
		}
		p.Run(100 * time.Millisecond)
	}
	t.Fatal("not whole after 5 min")
}

func all(n int, yes func(int) bool) bool {
	for i := range n {
		if !yes(i) {
			return false
		}
	}
	return true
}

// TestTrace follows ten members by hand.
func TestTrace(t *testing.T) {
	p := pool(t, 10)
	p.Run(2 * time.Second)
	whole(t, p, 10)
	p.Run(20 * time.Second)
	if !p.Idle() {
		t.Fatal("there is something to say after 20 s")
	}
	// Each probes once in every interval: a ping and its answer, of both sides a packet.
	before := p.Traffic()
	p.Run(20 * pace.ProbeInterval)
	if after := p.Traffic(); after.Packets-before.Packets != 2*20*10 || after.Heard != before.Heard {
		t.Errorf("%d packets, want 400, with %d messages", after.Packets-before.Packets, after.Heard-before.Heard)
	}
	// A change is on its way within a gossip interval, to four; each of these, and it itself, tells four others in the next one.
	p.Announce(4, 2)
	p.Run(pace.GossipInterval + 2*time.Millisecond)
	seen := 0
	for i := range 10 {
		if p.Sees(i, 4, 2) {
			seen++
		}
	}
	if seen < 5 {
		t.Errorf("%d members see a change after one round", seen)
	}
	p.Run(3 * pace.GossipInterval)
	if !all(10, func(i int) bool { return p.Sees(i, 4, 2) }) {
		t.Error("somebody does not see a change after four rounds")
	}
	// A crash: probed within a round of ten intervals at most, unheard for one, suspect for two (twice the logarithm of ten), and told on.
	v := p.Kill(9)
	p.Run(3 * pace.ProbeInterval)
	if p.Lost(0, v) {
		t.Error("held dead sooner than its suspicion may end")
	}
	p.Run(10*pace.ProbeInterval + 5*pace.GossipInterval)
	if !all(9, func(i int) bool { return p.Lost(i, v) }) {
		t.Error("not held dead after a round of probes")
	}
	if usable, suspect := p.Knows(0); usable != 9 || suspect != 1 {
		t.Errorf("knows %d and %d suspects, want 9 and the dead one", usable, suspect)
	}
	p.Run(pace.SuspectTTL)
	if _, suspect := p.Knows(0); suspect != 0 {
		t.Error("the dead one is kept for longer than SuspectTTL")
	}
}

// TestCounts has all kinds of things happen, and counts again.
func TestCounts(t *testing.T) {
	const n = 120
	p := pool(t, n)
	check := func(what string) {
		t.Helper()
		if err := p.Check(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	p.Run(500 * time.Millisecond)
	check("while they start")
	p.Run(2 * time.Second)
	whole(t, p, n)
	check("joined")
	victim := p.Kill(n - 1)
	p.Run(3 * time.Second)
	check("while one is suspected")
	p.Run(30 * time.Second)
	if !p.Lost(0, victim) {
		t.Error("a crash goes unnoticed")
	}
	p.Replace(n - 1)
	p.Restart(7)
	check("restarted")
	p.SetLoss(0.3)
	p.Run(time.Minute)
	check("with losses")
	p.SetLoss(0)
	p.Split(80)
	p.Run(2 * time.Minute)
	check("split")
	if usable, _ := p.Knows(0); usable != 80 {
		t.Errorf("one side knows %d, want 80", usable)
	}
	p.Split(0)
	whole(t, p, n)
	p.Run(time.Minute)
	check("healed")
	if !p.Idle() {
		t.Error("a minute after the heal there is still something to say, or a packet was lost sight of")
	}
}

// TestWhole: a pool that is whole from the start is what one becomes that has joined.
func TestWhole(t *testing.T) {
	const n = 60
	joined := pool(t, n)
	joined.Run(2 * time.Minute)
	p, err := light.New(light.Config{Members: n, Seeds: 3, PerService: 10, Latency: 500 * time.Microsecond, Seed: 1, Whole: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	if !all(n, func(i int) bool { usable, suspect := p.Knows(i); return usable == n && suspect == 0 }) {
		t.Error("it is not whole")
	}
	idle := func(p *light.Pool) light.Traffic {
		before := p.Traffic()
		p.Run(5 * time.Minute)
		after := p.Traffic()
		return light.Traffic{Packets: after.Packets - before.Packets, Bytes: after.Bytes - before.Bytes, Streams: after.Streams - before.Streams}
	}
	a, b := idle(joined), idle(p)
	near := func(x, y, percent int64) bool { return 100*x < (100+percent)*y && 100*y < (100+percent)*x }
	if !near(a.Packets, b.Packets, 5) || !near(a.Bytes, b.Bytes, 5) || !near(a.Streams, b.Streams, 20) { // of streams there are some 600, at random times
		t.Errorf("one that has joined sends %+v in five minutes, one that was whole %+v", a, b)
	}
	p.Kill(n - 1)
	p.Run(time.Minute)
	p.Replace(n - 1)
	whole(t, p, n)
	if err := p.Check(); err != nil {
		t.Error(err)
	}
}

// TestRepeatable: the same seed is the same pool.
func TestRepeatable(t *testing.T) {
	var before light.Traffic
	for range 2 {
		p := pool(t, 30)
		p.Run(20 * time.Second)
		if before != (light.Traffic{}) && p.Traffic() != before {
			t.Errorf("%+v, and once more %+v", before, p.Traffic())
		}
		before = p.Traffic()
	}
}

// message is a memberlist.Broadcast.
type message struct {
	name int
	b    []byte
}

func (m message) Invalidates(memberlist.Broadcast) bool { return false }
func (m message) Message() []byte                       { return m.b }
func (m message) Finished()                             {}
func (m message) Name() string                          { return fmt.Sprint(m.name) }

// TestQueue holds the queue against memberlist's.
func TestQueue(t *testing.T) {
	for _, n := range []int{5, 300} {
		random := rand.New(rand.NewPCG(1, 2))
		mine, err := light.NewQueue(n)
		if err != nil {
			t.Fatal(err)
		}
		theirs := memberlist.TransmitLimitedQueue{NumNodes: func() int { return n }, RetransmitMult: pace.List(time.Second, time.Second).RetransmitMult}
		// One that never fits: memberlist numbers anew when nothing waits, and may then lose one of two messages that have the same number and
		// length. That is not modelled.
		theirs.QueueBroadcast(message{-1, make([]byte, 1<<16)})
		for step := range 20_000 {
			if random.IntN(3) == 0 {
				subject, lives, inc := random.IntN(n), random.IntN(2) == 0, uint16(step)
				mine.Add(subject, lives, inc)
				b := make([]byte, mine.Length(lives))
				b[0], b[1] = byte(inc>>8), byte(inc)
				theirs.QueueBroadcast(message{subject, b})
				continue
			}
			room := random.IntN(2000)
			var want []int
			for _, b := range theirs.GetBroadcasts(2, room) {
				want = append(want, int(b[0])<<8|int(b[1]))
			}
			var got []int
			for _, s := range mine.Take(room) {
				got = append(got, s[1])
			}
			if !slices.Equal(got, want) {
				t.Fatalf("step %d: sends %v, memberlist %v", step, got, want)
			}
		}
	}
}

func TestInvalid(t *testing.T) {
	for _, c := range []light.Config{
		{}, {Members: 2, Seeds: 3, PerService: 1, Latency: 1}, {Members: light.MaxMembers + 1, Seeds: 1, PerService: 1, Latency: 1}, {Members: 9, Seeds: 1, PerService: 1},
	} {
		if _, err := light.New(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}
