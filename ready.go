package mesh

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery"
)

// readiness is what the application says about itself. The zero value is ready.
type readiness struct {
	announce sync.Mutex // so that what is announced last is what holds

	mu      sync.Mutex
	waiting bool          // SetReady(false)
	changed chan struct{} // nil until somebody waits
}

// SetReady says whether this process wants traffic. It does from the beginning: a program that warms up first says false
// before it listens, and true when it is done; one that can't serve for a while says false meanwhile. Callers are told
// through discovery that the endpoints are starting, and choose others; what has begun goes on, and whoever
// connects all the same is served. It returns once the news is on its way.
func (m *Mesh) SetReady(ready bool) {
	m.ready.mu.Lock()
	same := m.ready.waiting == !ready
	m.ready.waiting = !ready
	if !same && m.ready.changed != nil {
		close(m.ready.changed)
		m.ready.changed = nil
	}
	m.ready.mu.Unlock()
	if same {
		return
	}
	for _, l := range m.allListeners() {
		if err := m.announce(m.ctx, l); err != nil && m.ctx.Err() == nil {
			m.log.Warn("could not announce whether this process is ready", "port", l.port, "error", err)
		}
	}
}

// State tells what this process announces, and returns a channel that is closed when it may have changed.
func (m *Mesh) State() (discovery.State, <-chan struct{}) {
	select {
	case <-m.draining:
		return discovery.Draining, m.Done()
	default:
	}
	r := &m.ready
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	if r.waiting {
		return discovery.Starting, r.changed
	}
	return discovery.Ready, r.changed
}

// drains makes the state Draining, for good.
func (m *Mesh) drains() {
	m.drainOnce.Do(func() {
		m.ready.mu.Lock()
		defer m.ready.mu.Unlock()
		now := time.Now()
		m.drainingSince.Store(&now)
		close(m.draining)
		if m.ready.changed != nil {
			close(m.ready.changed)
			m.ready.changed = nil
		}
	})
}

// announceState tells discovery about a listener, in the state that holds when its turn comes.
func (m *Mesh) announceState(ctx context.Context, r discovery.Registrar, ep discovery.Endpoint) error {
	m.ready.announce.Lock()
	defer m.ready.announce.Unlock()
	ep.State, _ = m.State()
	return r.Register(ctx, ep)
}

// HealthHandler answers checks of the platform's: 200 while the process is ready, 503 otherwise, with the state in words, a line more
// for as long as no other member of the gossip can be reached, when what is known still serves, and one while this process only observes the
// gossip. It is for a listener of the platform's own, such as Kubernetes' probes, which have no certificate.
func (m *Mesh) HealthHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		state, _ := m.State()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if state != discovery.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		text := state.String() + "\n"
		if m.gossip != nil {
			if m.gossip.Observes() {
				text += "gossip: observes a pool of " + strconv.Itoa(m.gossip.PoolSize()) + "\n"
			}
			if i, alone := m.gossip.Isolated(); alone {
				text += "gossip: no other member reached for " + time.Since(i.Since).Truncate(time.Second).String() + "\n"
			}
		}
		_, _ = w.Write([]byte(text)) // the caller is gone: nobody to tell
	})
}
