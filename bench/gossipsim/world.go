package main

import (
	"context"
	"time"
)

// A world is a pool that scenarios happen to: of real members, or of those of package light. Members are numbered from 0; the first seedCount of them
// are the seeds, which no scenario stops. Each serves one port of one service.
type world interface {
	size() int
	// pause lets the virtual clock run, which now tells.
	pause(d time.Duration)
	now() time.Duration
	// knows counts the endpoints that member i can use, and those that it holds for gone.
	knows(i int) (usable, suspect int)
	// announce has member i change its record, and returns by what the change, or a later one, is told from those before.
	announce(ctx context.Context, i int) (version uint16, err error)
	// sees reports whether member i can use the endpoint of member j and knows of the change.
	sees(i, j int, version uint16) bool
	// kill does to member i what SIGKILL does. What it returns reports whether a member can't use its endpoint any more.
	kill(i int) (lost func(by int) bool)
	// replace starts a new process in the place of one that is gone, restart does after that one has left in good order.
	replace(ctx context.Context, i int) error
	restart(ctx context.Context, i int) error
	// slander notes the members that live and are held dead by others, and counts these pairs.
	slander(victims map[int]bool) (pairs int)
	// setLoss has a part of all datagrams, and of the packets that open streams, lost.
	setLoss(share float64)
	// split cuts the members from this number on off from the others; 0 heals.
	split(from int)
	sent() traffic
}

// traffic is what all members have sent so far.
type traffic struct {
	packets, bytes, streams int64 // lost packets included; bytes of datagrams and streams, without headers of UDP, TCP and IP
	overflow                int64 // datagrams that found the receiver's buffer full
	mostStreamed            int64 // bytes that the busiest member sent on streams
}

// never is the time of what did not happen while it was watched.
const never = -time.Second

// spread asks done for each of n things until it has said yes, every step for at most limit. It returns how long each took, [never] for those that
// did not.
func spread(w world, n int, limit, step time.Duration, done func(i int) bool) []time.Duration {
	times, waiting := make([]time.Duration, n), make([]int, n)
	for i := range times {
		times[i], waiting[i] = never, i
	}
	start := w.now()
	for ; ; w.pause(step) {
		now, left := w.now()-start, waiting[:0]
		for _, i := range waiting {
			if done(i) {
				times[i] = now
			} else {
				left = append(left, i)
			}
		}
		if waiting = left; len(waiting) == 0 || now >= limit {
			return times
		}
	}
}

// whole waits until all know all, and returns how long each member took.
func whole(w world, limit, step time.Duration) []time.Duration {
	return spread(w, w.size(), limit, step, func(i int) bool {
		usable, suspect := w.knows(i)
		return usable == w.size() && suspect == 0
	})
}

// calm waits until what was said is passed on: until members send little more than they do anyhow, at most ten minutes.
func calm(w world) {
	const little = 1500 // bytes a second of a member
	w.pause(10 * time.Second)
	for end := w.now() + 10*time.Minute; w.now() < end; {
		before := w.sent().bytes
		w.pause(5 * time.Second)
		if float64(w.sent().bytes-before)/5/float64(w.size()) < little {
			return
		}
	}
}
