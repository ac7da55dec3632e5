package busypoll_test

import (
	"testing"
	"time"

	"github.com/intramesh/mesh/internal/busypoll"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wake is what it takes until one that sleeps has been woken.
const wake = 40 * time.Microsecond

// An end of a connection of the model: it answers when it has worked.
type end struct {
	busypoll.Waiter
	work   time.Duration
	since  time.Time // when its wait began
	limit  time.Duration
	polled time.Duration // for how long, in vain
	fast   int           // waits that ended while it polled
}

func (e *end) wait(now time.Time) {
	e.since, e.limit = now, e.Limit()
}

// hear returns when the answer to what has come is on its way.
func (e *end) hear(now time.Time) time.Time {
	switch waited := now.Sub(e.since); {
	case e.limit == 0:
		now = now.Add(wake)
	case waited < e.limit:
		e.Waited(waited)
		e.fast++
	default:
		e.Waited(e.limit)
		e.polled += e.limit
		now = now.Add(wake)
	}
	e.Turn()
	return now.Add(e.work)
}

// talk has the two ends take so many turns each.
func talk(a, b *end, turns int) {
	now := time.Unix(0, 0)
	b.wait(now)
	for range turns {
		a.wait(now)
		now = b.hear(now)
		b.wait(now)
		now = a.hear(now)
	}
}

func newEnd(work time.Duration) *end {
	return &end{Waiter: busypoll.NewGroup(2).Waiter(), work: work}
}

// TestFastEndsFindEachOther lets two ends talk of which each is fast if the other one does not sleep, and one may have counted some turns more.
func TestFastEndsFindEachOther(t *testing.T) {
	for ahead := range 4 {
		for _, work := range []time.Duration{time.Microsecond, 10 * time.Microsecond, 30 * time.Microsecond} {
			a, b := newEnd(work), newEnd(work)
			for range ahead {
				b.Limit()
				b.Turn()
			}
			talk(a, b, 100)
			a.fast, b.fast = 0, 0
			talk(a, b, 1000)
			if a.fast < 990 || b.fast < 990 {
				t.Errorf("with %v of work, one end %d turns ahead: %d and %d of 1,000 waits were fast", work, ahead, a.fast, b.fast)
			}
		}
	}
}

// TestTheyFindEachOtherAgain stops one end for long enough that the other gives up, and much longer.
func TestTheyFindEachOtherAgain(t *testing.T) {
	a, b := newEnd(time.Microsecond), newEnd(time.Microsecond)
	for _, pause := range []int{10, 1000, 60_000, 70_000} {
		talk(a, b, 100)
		b.work = time.Millisecond
		talk(a, b, pause)
		b.work = time.Microsecond
		talk(a, b, 1100)
		a.fast, b.fast = 0, 0
		talk(a, b, 100)
		if a.fast < 99 || b.fast < 99 {
			t.Errorf("1,100 turns after the other end was slow for %d, %d and %d of 100 waits were fast", pause, a.fast, b.fast)
		}
	}
}

// TestWhoIsSlowCostsLittle bounds what is polled in vain, for an end that is slow and one that is slow or fast by turns.
func TestWhoIsSlowCostsLittle(t *testing.T) {
	const turns = 10_000
	a, b := newEnd(time.Microsecond), newEnd(time.Millisecond)
	talk(a, b, turns)
	if each := a.polled / turns; each > 2*time.Microsecond {
		t.Errorf("an end whose answers take 1 ms was polled %v a turn in vain", each)
	}
	a, b = newEnd(time.Microsecond), newEnd(0)
	for i := range turns {
		b.work = time.Duration(i%2) * time.Millisecond
		talk(a, b, 1)
	}
	if each := a.polled / turns; each > 15*time.Microsecond {
		t.Errorf("an end of which every other answer takes 1 ms was polled %v a turn in vain", each)
	}
}

// TestNobodyPollsInACrowd interleaves connections of one process.
func TestNobodyPollsInACrowd(t *testing.T) {
	for _, c := range []struct {
		processors, connections int
		poll                    bool
	}{{1, 1, false}, {2, 1, true}, {3, 1, true}, {2, 2, false}, {8, 4, true}, {8, 5, false}} {
		client, server := busypoll.NewGroup(c.processors), busypoll.NewGroup(c.processors)
		var as, bs []*end
		for range c.connections {
			as, bs = append(as, &end{Waiter: client.Waiter()}), append(bs, &end{Waiter: server.Waiter()})
		}
		fast := 0
		now := time.Unix(0, 0)
		for turn := range 2000 {
			for i, a := range as {
				a.wait(now)
				if turn > 0 {
					now = bs[i].hear(now)
				}
				bs[i].Limit() // net/http begins to read, and breaks it off, while a handler runs
				bs[i].wait(now)
			}
			for i, a := range as {
				a.hear(now)
				fast += a.fast + bs[i].fast
				a.fast, bs[i].fast = 0, 0
			}
		}
		if c.poll && fast < 1000 || !c.poll && fast > 0 {
			t.Errorf("%d connections of a process with %d processors: %d waits were fast", c.connections, c.processors, fast)
		}
	}
}

// TestFirstWaitsSleep has a connection's first waits, of which most connections have no more, not poll.
func TestFirstWaitsSleep(t *testing.T) {
	w := busypoll.NewGroup(2).Waiter()
	for turn := range 8 {
		if limit := w.Limit(); limit != 0 {
			t.Fatalf("wait %d is to poll for %v", turn, limit)
		}
		w.Turn()
	}
	if w.Limit() == 0 {
		t.Error("the first trial does not come")
	}
}

func TestNone(t *testing.T) {
	var none *busypoll.Group
	if w := none.Waiter(); w.Active() {
		t.Error("a connection of no group is to poll")
	}
	w := busypoll.NewGroup(2).Waiter()
	if !w.Active() {
		t.Error("a connection of a group is never to poll")
	}
	w.Stop()
	if w.Turn(); w.Active() || w.Limit() != 0 {
		t.Error("one that was stopped is to poll")
	}
}

// TestLimit lets waits take what they like: none is to poll longer than 400 µs, and it polls in vain only so often.
func TestLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := busypoll.NewGroup(2).Waiter()
		var fast, vain, trials int
		for _, d := range rapid.SliceOfN(rapid.IntRange(0, 500), 1, 5000).Draw(t, "waits") {
			switch limit := w.Limit(); {
			case limit < 0 || limit > 400*time.Microsecond:
				t.Fatalf("a wait is to poll for %v", limit)
			case limit == 0:
			case time.Duration(d)*time.Microsecond < limit:
				w.Waited(time.Duration(d) * time.Microsecond)
				if d < 60 {
					fast++
				}
			default:
				w.Waited(limit)
				if vain++; limit > 100*time.Microsecond {
					trials++
				}
			}
			w.Turn()
		}
		if bound := 5 + 3*fast + trials; vain > bound {
			t.Fatalf("%d waits were in vain, %d of them in trials, where %d were fast", vain, trials, fast)
		}
	})
}
