package mesh

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/intramesh/mesh/policy"
)

// inflight is one request under way, decided again with its connection.
type inflight struct {
	req   policy.Request
	of    requestOwner
	timer *time.Timer // decides again what was allowed for a time only; may be nil

	// next and prev link the requests of a connection; listed says that it is one of them.
	next, prev *inflight
	listed     bool
	// deciding is set until it is let in, which may take a moment; again when it is to be decided once more then.
	deciding, again bool
	// borrowed says that req.Header is the handler's as soon as the request is let in.
	borrowed bool
	// shared says that whoever decides it again may look at it when it is over. Only one that isn't is used for another request.
	shared bool
}

// newInflight returns one that the caller fills in and gives to admit.
func (m *Mesh) newInflight(of requestOwner) *inflight {
	f, _ := m.inflights.Get().(*inflight)
	if f == nil {
		f = new(inflight)
	}
	f.of = of
	return f
}

// requestOwner is what a request is to its protocol.
type requestOwner interface {
	// header returns the headers, nil when they are unavailable; it is asked when a rule looks at them, and req has none.
	header() http.Header
	// cut ends the request. It is called with serverConn.mu held and at most once.
	cut(d *DeniedError)
}

// admit registers a request and then decides it, in this order: a change of the rules at any moment finds it. The caller
// owes end, unless the request is denied, and does not use f after either.
func (sc *serverConn) admit(ctx context.Context, f *inflight) *DeniedError {
	sc.fill(&f.req)
	f.req.Tokens = sc.mesh.cfg.Tokens
	f.deciding = true
	if f.req.Header == nil && !sc.mesh.headersUnused.Load() {
		f.req.Header = f.of.header()
	}
	sc.mu.Lock()
	if sc.upgraded != nil {
		sc.unlist(sc.upgraded) // it was answered after all: another request came after it
		sc.upgraded = nil
	}
	sc.list(f)
	sc.mu.Unlock()
	for {
		dec := sc.rules.Authorize(ctx, &f.req)
		if hint := &sc.mesh.headersUnused; hint.Load() != dec.HeadersUnused {
			hint.Store(dec.HeadersUnused)
		}
		if !dec.HeadersUnused && f.req.Header == nil {
			if f.req.Header = f.of.header(); f.req.Header != nil {
				continue
			}
		}
		if denied := sc.decideRequest(ctx, &f.req, &dec); denied != nil {
			sc.refused(ctx, f, denied)
			return denied
		}
		if sc.letIn(f, &dec) {
			return nil
		}
	}
}

func (sc *serverConn) refused(ctx context.Context, f *inflight, d *DeniedError) {
	sc.mesh.decisions.denied(ctx, d, &f.req, sc.net.peer)
	sc.end(f)
}

func (sc *serverConn) list(f *inflight) {
	f.listed, f.prev, f.next = true, nil, sc.inflight
	if f.next != nil {
		f.next.prev = f
	}
	sc.inflight = f
}

func (sc *serverConn) unlist(f *inflight) {
	if !f.listed {
		return
	}
	f.listed = false
	if f.next != nil {
		f.next.prev = f.prev
	}
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		sc.inflight = f.next
	}
	f.next, f.prev = nil, nil // others may be kept longer than f, or not as long
}

// letIn reports whether the decision about f still counts: what is to be decided again was not when it was taken.
func (sc *serverConn) letIn(f *inflight, dec *policy.Decision) bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	f.deciding, f.again = f.again, false
	if f.deciding {
		return false
	}
	switch {
	case !f.borrowed:
	case dec.HeadersUnused:
		f.req.Header = nil // should rules come to look at them, they are unavailable
	default:
		f.req.Header = maps.Clone(f.req.Header)
	}
	sc.limit(f, dec.NotAfter)
	return true
}

// limit has f decided again at a time, never for the zero one. The caller holds mu.
func (sc *serverConn) limit(f *inflight, until time.Time) {
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	if f.listed && !until.IsZero() {
		f.shared = true
		f.timer = time.AfterFunc(time.Until(until), func() { sc.recheckRequest(sc.mesh.ctx, f) })
	}
}

// end forgets a request that is over, and takes f.
func (sc *serverConn) end(f *inflight) {
	sc.mu.Lock()
	sc.unlist(f)
	if sc.mesh.drainingSince.Load() != nil {
		sc.lastEnd = time.Now() // which takes longer than all else here
	} else {
		sc.lastEnd = past()
	}
	if f.timer != nil {
		f.timer.Stop()
	}
	shared := f.shared
	sc.mu.Unlock()
	if !shared {
		*f = inflight{}
		sc.mesh.inflights.Put(f)
	}
}

// keep leaves a request registered after its handler has returned: the connection may have been
// upgraded, to a WebSocket for example, and then is allowed as long as the request is.
func (sc *serverConn) keep(f *inflight) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.upgraded = f
}

// recheckRequests ends the requests under way that are no longer allowed.
func (sc *serverConn) recheckRequests(ctx context.Context) {
	sc.mu.Lock()
	var all []*inflight
	for f := sc.inflight; f != nil; f = f.next {
		if f.deciding {
			f.again = true
		} else {
			f.shared = true
			all = append(all, f)
		}
	}
	sc.mu.Unlock()
	for _, f := range all {
		sc.recheckRequest(ctx, f)
	}
}

func (sc *serverConn) recheckRequest(ctx context.Context, f *inflight) {
	r := &f.req
	dec := sc.rules.Authorize(ctx, r)
	if !dec.HeadersUnused && r.Header == nil {
		if h := f.of.header(); h != nil {
			dup := *r // others may be looking at it
			r, dup.Header = &dup, h
			dec = sc.rules.Authorize(ctx, r)
		}
	}
	if mayChange(&dec) {
		// Others must not wait with it.
		sc.mesh.spawn(func() { sc.settle(sc.mesh.ctx, f, r, dec) })
		return
	}
	sc.settle(ctx, f, r, dec)
}

// settle acts on a decision about a request under way.
func (sc *serverConn) settle(ctx context.Context, f *inflight, r *policy.Request, dec policy.Decision) {
	if denied := sc.decideRequest(ctx, r, &dec); denied != nil {
		sc.cutRequest(ctx, f, denied)
		return
	}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.limit(f, dec.NotAfter)
}

func (sc *serverConn) cutRequest(ctx context.Context, f *inflight, d *DeniedError) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if !f.listed {
		return // it is over
	}
	sc.unlist(f)
	sc.mesh.decisions.cut(ctx, d, &f.req, sc.net.peer)
	f.of.cut(d)
}

// idleSince returns when the last request ended, once the mesh drains: not before it began to. The zero time is never, or that
// requests are under way.
func (sc *serverConn) idleSince() time.Time {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	start := sc.mesh.drainingSince.Load()
	switch {
	case sc.lastEnd.IsZero() || sc.inflight != nil || start == nil:
		return time.Time{}
	case sc.lastEnd.Before(*start):
		return *start
	}
	return sc.lastEnd
}
