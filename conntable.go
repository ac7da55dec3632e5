package mesh

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// connTable holds every accepted connection, so that no connection is open and unknown. Those about which the rules are asked
// the very same question are a group: however many there are, it is asked once.
type connTable struct {
	conns sync.Map // *serverConn by the pointer that netConn.local is, but raw ones; each request looks here

	mu     sync.Mutex
	n      int // how many there are
	groups map[connKey]*connGroup
	closed bool
	idle   chan struct{} // closed when the table is empty and closed

	detached atomic.Int32 // streams that are in no table any more, see brief.go
}

// connKey is all that a decision about a connection depends on, but the service, which is ours.
type connKey struct {
	source   spiffeid.ID
	addr     netip.Addr
	port     string
	deferred bool
	refused  bool // it is being told no
}

// connGroup is the connections with one key. They share what was looked up in the rules.
type connGroup struct {
	key   connKey
	rules policy.Authorizer
	conns map[*serverConn]struct{}
}

func (k connKey) request(service string) *policy.Request {
	return &policy.Request{
		Layer: policy.LayerConnection, Deferred: k.deferred,
		Source: k.source, SourceAddr: k.addr, Destination: service, Port: k.port,
	}
}

func newConnTable() *connTable {
	return &connTable{groups: make(map[connKey]*connGroup), idle: make(chan struct{})}
}

// add fails when the mesh is closing.
func (t *connTable) add(sc *serverConn, key connKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	if !sc.relay { // no rule is about one
		t.join(sc, key)
	}
	t.n++
	if sc.raw == nil {
		t.conns.Store(sc.net.local, sc)
	}
	return true
}

func (t *connTable) join(sc *serverConn, key connKey) {
	g := t.groups[key]
	if g == nil {
		g = &connGroup{
			key:   key,
			rules: policy.Pinned(sc.mesh.policy, key.request(sc.mesh.service)),
			conns: make(map[*serverConn]struct{}),
		}
		t.groups[key] = g
	}
	g.conns[sc] = struct{}{}
	sc.group = g
	if sc.rules == nil {
		sc.rules = g.rules
	}
}

func (t *connTable) leave(sc *serverConn) {
	g := sc.group
	if g == nil {
		return
	}
	sc.group = nil
	delete(g.conns, sc)
	if len(g.conns) == 0 {
		delete(t.groups, g.key)
	}
}

// refuse marks a connection as one that is being told no, and returns how many there are of the same peer.
func (t *connTable) refuse(sc *serverConn) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if sc.group == nil {
		return 0 // it has ended
	}
	key := sc.group.key
	key.refused = true
	t.leave(sc)
	t.join(sc, key)
	return len(sc.group.conns)
}

func (t *connTable) remove(sc *serverConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns.Delete(sc.net.local)
	t.n--
	t.leave(sc)
	t.checkIdle()
}

func (t *connTable) checkIdle() {
	if t.closed && t.n == 0 {
		select {
		case <-t.idle:
		default:
			close(t.idle)
		}
	}
}

// close stops additions; the channel is closed once the last connection is gone.
func (t *connTable) close() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.checkIdle()
	return t.idle
}

func (t *connTable) all() []*serverConn {
	var all []*serverConn
	t.conns.Range(func(_, sc any) bool {
		all = append(all, sc.(*serverConn))
		return true
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, g := range t.groups {
		for sc := range g.conns {
			if sc.raw != nil {
				all = append(all, sc)
			}
		}
	}
	return all
}

// keys returns those of all groups.
func (t *connTable) keys() []connKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	return collect(maps.Keys(t.groups), len(t.groups))
}

// group returns the connections with a key, and what decides about them; nil when they are gone.
func (t *connTable) group(k connKey) (policy.Authorizer, []*serverConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.groups[k]
	if g == nil {
		return nil, nil
	}
	return g.rules, collect(maps.Keys(g.conns), len(g.conns))
}

func collect[T any](seq iter.Seq[T], n int) []T { return slices.AppendSeq(make([]T, 0, n), seq) }

// find returns the connection, not a raw one, whose LocalAddr is the one given; nil for anything else.
func (t *connTable) find(local any) *serverConn {
	v, _ := t.conns.Load(local)
	sc, _ := v.(*serverConn)
	return sc
}
