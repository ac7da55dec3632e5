package mesh

import (
	"crypto/tls"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intramesh/mesh/policy"
)

// serverConn is one accepted connection, from the end of its handshake until it is closed.
type serverConn struct {
	mesh  *Mesh
	net   *netConn
	raw   *link             // nil for HTTP and plain TLS
	group *connGroup        // guarded by the table's mutex; nil for a relay, and once it is closed
	rules policy.Authorizer // the mesh's, for this connection; nil for a relay

	// Guarded by the mutex of expiries.
	expires int64 // seconds since 1970
	place   int32 // in the queue, from 1 on; 0 is not there
	over    bool  // it is closed

	refusing atomic.Pointer[tls.Conn] // set while HTTP/2 requests on it are told no
	allowed  atomic.Bool              // it is ending since that is no longer right
	deferred bool                     // its requests are decided one by one
	relay    bool                     // a member's question, see relay.go: no rule is about it

	mu       sync.Mutex
	inflight *inflight // requests under way, the newest first
	upgraded *inflight // one of them, kept after its handler returned
	lastEnd  time.Time // when the last of them ended; long ago, if that was before the mesh drained, and zero if none has
}

// register makes the connection known until it is closed. It fails when the mesh is closing.
func (sc *serverConn) register(key connKey) bool {
	if !sc.mesh.conns.add(sc, key) {
		return false
	}
	sc.mesh.expiries.add(sc)
	sc.net.afterClose(sc.gone)
	return true
}

func (sc *serverConn) gone() {
	sc.mesh.expiries.remove(sc)
	sc.mesh.conns.remove(sc)
}

// nextExpiry returns when the next certificate of the peer's chain, or of the authority that vouches for it, is no longer valid, in seconds: the
// last one in which it is.
func (sc *serverConn) nextExpiry() int64 {
	now := time.Now()
	next := sc.net.peer.chain[0].NotAfter
	if e := sc.net.peer.Expiry; e.Before(next) && !e.Before(now) {
		next = e // the authority's own certificate ends first
	}
	for _, c := range sc.net.peer.chain {
		if c.NotAfter.Before(next) && !c.NotAfter.Before(now) {
			next = c.NotAfter
		}
	}
	return next.Unix()
}

// fill puts into r what the connection knows.
func (sc *serverConn) fill(r *policy.Request) {
	r.Source = sc.net.peer.ID
	r.SourceAddr = sc.net.peer.Addr.Addr()
	r.Destination = sc.mesh.service
	r.Port = sc.net.peer.Port
}

// request is the question whether the connection may be open.
func (sc *serverConn) request() *policy.Request {
	r := &policy.Request{Layer: policy.LayerConnection, Deferred: sc.deferred}
	sc.fill(r)
	return r
}

// verify closes the connection when its certificate is no longer one that we trust.
func (sc *serverConn) verify() bool {
	_, err := sc.mesh.verify(sc.net.peer.chain)
	if err != nil {
		sc.cutUntrusted(err)
	}
	return err == nil
}

func (sc *serverConn) cutUntrusted(err error) {
	if sc.parked() {
		_ = sc.net.Close() // nobody uses it
		return
	}
	r, d := sc.request(), notTrusted(err)
	d.Tell = sc.mesh.policy.Authorize(sc.mesh.ctx, r).Tell && r.Source.MemberOf(sc.mesh.trustDomain)
	sc.cut(&DeniedError{Source: r.Source.String(), Destination: r.Destination, Port: r.Port, Decision: d, cause: err})
}

// parked reports whether it is a raw connection between two streams.
func (sc *serverConn) parked() bool { return sc.raw != nil && sc.raw.active() == nil }

// settled reports whether nothing is left of the last stream.
func (sc *serverConn) settled() bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return sc.inflight == nil
}

// cut closes an open connection, with a word to the peer where the protocol has one, and logs why.
func (sc *serverConn) cut(d *DeniedError) {
	if sc.raw != nil && !sc.raw.fail(d) {
		return // it has ended
	}
	sc.mesh.decisions.cut(sc.mesh.ctx, d, sc.request(), sc.net.peer)
	sc.mesh.trace.connCut(sc.net.peer, d)
	if sc.raw != nil {
		sc.mesh.farewells.add(sc.mesh, sc.raw, d)
	} else {
		_ = sc.net.Close() // nothing to do about it
	}
}
