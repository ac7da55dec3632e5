// Package tally counts what others sent that was refused, and says when that is worth a line in the log: a flood must not fill a disk.
package tally

import (
	"sync"
	"time"
)

// A Kind is a reason to refuse.
type Kind int

// The kinds, see gossip.Refused.
const (
	Sealed Kind = iota
	Message
	Stream
	Lie
	Forged
	Replayed
	kinds
)

// gap is the least time between two lines about one kind.
const gap = 10 * time.Second

// A Tally is safe for concurrent use. Its zero value counts from zero, and a nil one not at all.
type Tally struct {
	mu     sync.Mutex
	counts [kinds]count
}

type count struct {
	all, untold uint64
	told        time.Time
}

// Add counts one more. It returns how many are to be told of in a line about this one, 0 if it is not to be logged.
func (t *Tally) Add(k Kind) (untold uint64) {
	if t == nil {
		return 0
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &t.counts[k]
	c.all++
	c.untold++
	if !c.told.IsZero() && now.Sub(c.told) < gap {
		return 0
	}
	untold, c.untold, c.told = c.untold, 0, now
	return untold
}

// Count returns how often Add was called.
func (t *Tally) Count(k Kind) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[k].all
}
