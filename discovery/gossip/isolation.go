package gossip

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Warnings of a member that reaches nobody: the second one comes firstReminder after the first, and each later one after twice the
// time, maxReminder at most.
const (
	firstReminder = 10 * time.Second
	maxReminder   = 10 * time.Minute
)

// An Isolation says that a member reaches nobody, though it was told or remembers whom to reach.
type Isolation struct {
	// Since is when the first attempt failed.
	Since time.Time
	// Seeds are [Config.Seeds], each with what went wrong at the last attempt to reach it.
	Seeds []SeedError
}

// A SeedError tells why a seed was not reached.
type SeedError struct {
	// Seed is what Config.Seeds holds.
	Seed string
	// Err is the last error; nil if the seed is this member itself, or has not been tried yet.
	Err error
}

// Error is the seed and what is wrong with it.
func (e SeedError) Error() string { return fmt.Sprintf("%s: %v", e.Seed, e.Err) }

// Unwrap returns Err.
func (e SeedError) Unwrap() error { return e.Err }

// Isolated reports whether the member is alone against its will, and why. One without seeds that remembers nobody is not:
// the others come to it. It goes on trying; see [Config.RejoinInterval].
func (m *Member) Isolated() (Isolation, bool) {
	return m.alone.isolation()
}

func (a *alone) isolation() (Isolation, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now, !a.now.Since.IsZero()
}

// alone is whether a member is isolated, and what was logged about it.
type alone struct {
	mu  sync.Mutex
	now Isolation // the zero value if it is not

	next  time.Time // of the next warning
	pause time.Duration
}

// failed notes that an attempt has failed.
func (a *alone) failed(now time.Time, seeds []SeedError, log *slog.Logger) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.now.Since.IsZero() {
		a.now.Since, a.next, a.pause = now, now, firstReminder
	}
	a.now.Seeds = seeds
	if now.Before(a.next) {
		return
	}
	a.next, a.pause = now.Add(a.pause), min(2*a.pause, maxReminder)
	var why []string
	for _, s := range seeds {
		why = append(why, s.Error())
	}
	log.Warn("gossip: no seed and no known peer answers, trying on", "for", now.Sub(a.now.Since), "seeds", why)
}

// over notes that there is somebody.
func (a *alone) over(now time.Time, log *slog.Logger) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.now.Since.IsZero() {
		log.Info("gossip: others are reached again", "after", now.Sub(a.now.Since))
		a.now = Isolation{}
	}
}
