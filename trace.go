package mesh

import (
	"net/netip"
	"time"

	"github.com/intramesh/mesh/policy"
)

// A Trace is told what the mesh does, in the manner of net/http/httptrace: set the functions you
// want. They are called synchronously, from many goroutines at once, and must return quickly. What they
// are given is theirs to read, not to keep or change.
type Trace struct {
	// DialDone is called after each attempt to connect to an endpoint; addr is the endpoint.
	DialDone func(service, port string, addr netip.AddrPort, took time.Duration, err error)
	// HandshakeFailed is called when a connection did not become one of a verified peer.
	HandshakeFailed func(addr netip.AddrPort, err error)
	// Decided is called for each decision, of connections and of requests.
	Decided func(r *policy.Request, d policy.Decision)
	// ConnCut is called when an open connection is closed since it is no longer allowed.
	ConnCut func(p Peer, why *DeniedError)
}

func (t *Trace) dialDone(tg target, addr netip.AddrPort, start time.Time, err error) {
	if t != nil && t.DialDone != nil {
		t.DialDone(tg.service, tg.port, addr, time.Since(start), err)
	}
}

func (t *Trace) handshakeFailed(addr netip.AddrPort, err error) {
	if t != nil && t.HandshakeFailed != nil {
		t.HandshakeFailed(addr, err)
	}
}

func (t *Trace) decided(r *policy.Request, d *policy.Decision) {
	if t != nil && t.Decided != nil {
		t.Decided(r, *d)
	}
}

func (t *Trace) connCut(p Peer, why *DeniedError) {
	if t != nil && t.ConnCut != nil {
		t.ConnCut(p, why)
	}
}
