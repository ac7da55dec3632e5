// Package busypoll decides when who waits for an answer looks for it again and again, instead of going to sleep.
//
// To put a goroutine and its thread to sleep and to wake them costs either end of a connection tens of microseconds, where an answer that is
// ready takes a few. Who polls has it at once, and the processor is used less, as long as answers come that fast. How long to poll
// is an old question: as long as sleeping costs, then it is never much more than twice as dear as it would be with foresight, and where the last waits
// tell of the next, less. Karlin, Li, Manasse, Owicki: Empirical studies of competitive spinning for a shared-memory
// multiprocessor, SOSP 1991.
//
// That answers come fast shows only if both ends poll: the wakening of the other one takes longer than all the rest. So both try at the
// same turn. They count alike: a turn is over when something has come after something was sent.
package busypoll

import (
	"sync/atomic"
	"time"
)

const (
	// fast is what a wait takes that had better not sleep.
	fast = 60 * time.Microsecond
	// most is how long it polls for an answer that was fast until now, and trial where that is to be found out.
	most  = 100 * time.Microsecond
	trial = 400 * time.Microsecond

	// A trial is of so many waits: the other end may be a turn or two off, and is then to be woken. Those longer than the half of trial count as in vain.
	trialWaits = 8
	// Trials are 1<<minPeriod turns apart at first, and up to 1<<maxPeriod the more of them were in vain: a trial is
	// three waits in vain at most, so that in the end it is little more than a microsecond a turn.
	minPeriod = 3
	maxPeriod = 10

	// Credit is what a fast wait gains, and what others cost: slow one that was no faster than sleep, vain one that found nothing. A trial
	// ends with the first fast wait. The next one is soon if all credit was earned, else later than the last was.
	firstCredit = 50
	maxCredit   = 100
	gain        = 10
	slow        = 1
	vain        = 20
	vainTrial   = 3
)

// A Group is the connections of one process, which share its processors.
type Group struct {
	turns atomic.Uint32
	few   uint16
}

// NewGroup returns a group for so many processors. At most half of them poll, and one that is alone never does: it is needed for the other end.
func NewGroup(processors int) *Group { return &Group{few: uint16(max(0, processors/2))} } //nolint:gosec // a small number

// A Waiter is what one connection knows; who reads it is the only one to use it. The zero Waiter never polls.
type Waiter struct {
	group  *Group
	turns  uint16
	began  uint16 // turns of the group when the present wait began
	seen   uint16 // and when the one before the last turn did
	credit int8   // above 0 it polls; below 0 is what is left of a trial
	period uint8
}

// Waiter returns that of a new connection. Of a nil group it is the zero Waiter.
func (g *Group) Waiter() Waiter { return Waiter{group: g, period: minPeriod} }

// Active reports whether it may ever poll.
func (w *Waiter) Active() bool { return w.group != nil }

// Stop makes it the zero Waiter.
func (w *Waiter) Stop() { *w = Waiter{} }

// Limit returns how long the wait that begins now should poll, zero for not at all. If it did, Waited follows. A wait that is broken off and
// begins again is one.
//
// It is not at all when other connections had their turns since the last wait began, more than there are processors to spare: somebody else needs
// this one, and what wakes the goroutine finds others to wake.
func (w *Waiter) Limit() time.Duration {
	if w.group == nil {
		return 0
	}
	w.began = uint16(w.group.turns.Load()) //nolint:gosec // only differences matter
	crowded := w.began-w.seen > w.group.few
	if w.credit == 0 && w.turns > 0 && w.turns&(1<<w.period-1) == 0 { // most connections have few turns
		w.credit = -trialWaits
	}
	limit := most
	if w.credit < 0 {
		limit = trial
	}
	switch {
	case w.credit == 0:
		return 0
	case crowded:
		w.Waited(limit)
		return 0
	}
	return limit
}

// Waited says how long a wait polled: less than Limit if something came.
func (w *Waiter) Waited(d time.Duration) {
	switch tried := w.credit < 0; {
	case d < fast && tried:
		w.credit = firstCredit
		return
	case d < fast:
		if w.credit = min(w.credit+gain, maxCredit); w.credit == maxCredit {
			w.period = minPeriod
		}
		return
	case tried && d < trial/2:
		w.credit += slow
	case tried:
		w.credit = min(0, w.credit+vainTrial)
	case d < most:
		w.credit -= slow
	default:
		w.credit = max(0, w.credit-vain)
	}
	if w.credit == 0 {
		w.period = min(w.period+1, maxPeriod)
	}
}

// Turn says that something has come after something was sent.
func (w *Waiter) Turn() {
	if w.group != nil {
		w.turns++
		w.seen = w.began
		w.group.turns.Add(1)
	}
}
