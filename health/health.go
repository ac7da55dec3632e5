// Package health asks how things are. [Watch] asks the application of this process, so that the others send it traffic as long as it can
// serve; [Endpoints] asks the instances of a service that this process calls, so that those which are ill get none. A program that
// imports it not pays for neither.
//
// # Readiness
//
// An application with a health check of its own, over HTTP for example:
//
//	check, err := health.HTTP("http://127.0.0.1:8080/healthz")
//	stop := health.Watch(m, check, health.Config{})
//	defer stop()
//	ln, err := m.Listen(ctx, "tcp", ":0") // announced as starting until the check succeeds
//
// A gRPC health service is followed with meshgrpc.FollowHealth, or asked with meshgrpc.HealthCheck. Whoever knows by itself
// calls [mesh.Mesh.SetReady].
//
// # Active checks
//
// What a process calls is watched anyway: who can't be reached, breaks off or rejects gets no traffic, or less. Active checks tell
// before a request has to fail, and tell of the instance that takes requests and never does them:
//
//	stop, err := health.Endpoints(m, "payments", health.Get("/healthz"), health.Config{})
//	defer stop()
package health

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/intramesh/mesh"
)

// A Check returns nil when all is well, and else what is wrong; that is logged. It returns when ctx ends, which is an error.
type Check func(ctx context.Context) error

// A Config says how often to ask, and how soon to believe it. Fields that are not positive have their defaults.
type Config struct {
	// Interval is the time from one check to the next, 5 s by default, give or take a tenth.
	Interval time.Duration
	// Timeout bounds one check, 2 s by default.
	Timeout time.Duration
	// Fall is how many checks in a row have to fail until it is believed, 3 by default; Rise how many have to succeed afterwards, 2 by
	// default. The first that succeeds of all is believed at once.
	Fall, Rise int
	// Rate bounds the checks that [Endpoints] starts in a second, 10 by default. With more endpoints than Rate × Interval each
	// is asked less often.
	Rate int
}

func (c Config) defaulted() Config {
	c.Interval, c.Timeout = positive(c.Interval, 5*time.Second), positive(c.Timeout, 2*time.Second)
	c.Fall, c.Rise, c.Rate = positive(c.Fall, 3), positive(c.Rise, 2), positive(c.Rate, 10)
	return c
}

func positive[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// jitter spreads d by a tenth to both sides, so that processes which began together don't ask together.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1) //nolint:gosec // not a secret
}

// A verdict is what the checks of one thing have come to. It begins with the benefit of the doubt.
type verdict struct {
	ill, proven bool // proven: a check has succeeded
	streak      int  // how many in a row said otherwise
}

// take takes in the outcome of a check, and reports whether that is news.
func (v *verdict) take(well bool, c *Config) (news bool) {
	if well && !v.proven {
		*v = verdict{proven: true}
		return true
	}
	if well != v.ill {
		v.streak = 0
		return false
	}
	need := c.Fall
	if well {
		need = c.Rise
	}
	if v.streak++; v.streak < need {
		return false
	}
	v.ill, v.streak = !well, 0
	return true
}

// Watch has m's readiness follow a check, from now on: m is not ready until it succeeds, see [mesh.Mesh.SetReady], which nobody else
// should call meanwhile. Until then it is asked more often than every Interval. Watching ends when m drains, or by stop, which waits
// for the check under way and leaves the readiness as it is.
func Watch(m *mesh.Mesh, check Check, cfg Config) (stop func()) {
	cfg = cfg.defaulted()
	m.SetReady(false)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { watch(ctx, m, check, &cfg) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// firstPause is the time to the second check; it doubles until the first one succeeds.
const firstPause = 100 * time.Millisecond

func watch(ctx context.Context, m *mesh.Mesh, check Check, cfg *Config) {
	var v verdict
	for pause := firstPause; ; pause *= 2 {
		err := within(ctx, cfg.Timeout, check)
		if ctx.Err() != nil {
			return
		}
		if v.take(err == nil, cfg) {
			if m.SetReady(!v.ill); !v.ill {
				m.Logger().Info("ready: the health check succeeds")
			} else {
				m.Logger().Warn("not ready: the health check fails", "times", cfg.Fall, "error", err)
			}
		}
		if v.proven || pause > cfg.Interval {
			pause = cfg.Interval
		}
		select {
		case <-time.After(jitter(pause)):
		case <-m.Draining():
			return
		case <-ctx.Done():
			return
		}
	}
}

func within(ctx context.Context, limit time.Duration, check Check) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return check(ctx)
}
