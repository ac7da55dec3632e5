// Package discoverytest is the suite that every implementation of discovery passes. A test of
// an implementation calls [Run]; a test that waits for discovery calls [Await].
package discoverytest

import (
	"context"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery"
)

// patience bounds the wait for one change, on the slowest machine that runs the suite.
const patience = 30 * time.Second

// A Harness is one empty world in which members find each other.
type Harness struct {
	// Join adds a member to the world. It returns when the member knows what the
	// others announced, or will learn it without further calls. What is left open is closed
	// by t.Cleanup.
	Join func(t testing.TB) Member
	// Lacks is what the source can't tell.
	Lacks Lacks
}

// Lacks names fields of endpoints that a source which others define, such as DNS, has no place for. Without Instance,
// addresses are unique.
type Lacks struct{ Instance, Zone, Weight, State bool }

// told returns what a source can tell of ep.
func (l Lacks) told(ep discovery.Endpoint) discovery.Endpoint {
	if l.Instance {
		ep.Instance = ""
	}
	if l.Zone {
		ep.Zone = ""
	}
	if l.Weight {
		ep.Weight = 0
	}
	if l.State {
		ep.State = discovery.Ready
	}
	return ep
}

// is returns the condition that one endpoint is known, this one.
func (l Lacks) is(want discovery.Endpoint) func([]discovery.Endpoint) bool {
	return func(eps []discovery.Endpoint) bool { return len(eps) == 1 && l.told(eps[0]) == l.told(want) }
}

// A Member is one process of the world.
type Member struct {
	discovery.Resolver
	discovery.Registrar
	// Instance is what the member announces under.
	Instance string
	// Leave withdraws what the member announced, says goodbye and closes it. It can be
	// called again.
	Leave func(ctx context.Context) error
}

// Await waits until the endpoints of service satisfy cond and returns them. It fails the
// test after half a minute.
func Await(t testing.TB, r discovery.Resolver, service string, cond func([]discovery.Endpoint) bool) []discovery.Endpoint {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		s := r.Lookup(service)
		if cond(s.Endpoints) {
			return s.Endpoints
		}
		select {
		case <-s.Changed:
		case <-ctx.Done():
			t.Fatalf("%s: still %+v", service, s.Endpoints)
		}
	}
}

// AwaitCount waits until service has n endpoints, none of them suspect, and returns them.
func AwaitCount(t testing.TB, r discovery.Resolver, service string, n int) []discovery.Endpoint {
	t.Helper()
	return Await(t, r, service, func(eps []discovery.Endpoint) bool {
		for _, ep := range eps {
			if ep.Suspect {
				return false
			}
		}
		return len(eps) == n
	})
}
