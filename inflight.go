package mesh

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/intramesh/mesh/policy"
)

// inflight is one request under way, decided again with its connection.
type inflight struct {
	req policy.Request
	// cut ends the request. It is called with serverConn.mu held and at most once.
	cut   func(*DeniedError)
	timer *time.Timer // decides again what was allowed for a time only; may be nil

	// deciding is set until it is let in, which may take a moment; again when it is to be decided once more then.
	deciding, again bool
}

// cutGrace is left to a handler of a protocol without a way to break one request, before its connection is closed.
const cutGrace = 50 * time.Millisecond

// admit registers a request and then decides it, in this order: a change of the rules at any moment finds it. The caller
// owes end, unless the request is denied.
func (sc *serverConn) admit(ctx context.Context, f *inflight) *DeniedError {
	sc.fill(&f.req)
	f.req.Tokens = sc.mesh.cfg.Tokens
	f.deciding = true
	sc.mu.Lock()
	if sc.inflight == nil {
		sc.inflight = make(map[*inflight]struct{})
	}
	if sc.upgraded != nil {
		delete(sc.inflight, sc.upgraded) // it was answered after all: another request came after it
		sc.upgraded = nil
	}
	sc.inflight[f] = struct{}{}
	sc.mu.Unlock()
	for {
		dec, denied := sc.mesh.decideRequest(ctx, &f.req)
		if denied != nil {
			sc.end(f)
			sc.mesh.decisions.denied(ctx, denied, &f.req, sc.net.peer)
			return denied
		}
		if sc.letIn(f, dec.NotAfter) {
			return nil
		}
	}
}

// letIn reports whether the decision about f still counts: what is to be decided again was not when it was taken.
func (sc *serverConn) letIn(f *inflight, until time.Time) bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	f.deciding, f.again = f.again, false
	if f.deciding {
		return false
	}
	sc.limit(f, until)
	return true
}

// limit has f decided again at a time, never for the zero one. The caller holds mu.
func (sc *serverConn) limit(f *inflight, until time.Time) {
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	if _, ok := sc.inflight[f]; ok && !until.IsZero() {
		f.timer = time.AfterFunc(time.Until(until), func() { sc.recheckRequest(sc.mesh.ctx, f) })
	}
}

// end forgets a request that is over.
func (sc *serverConn) end(f *inflight) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	delete(sc.inflight, f)
	sc.lastEnd = time.Now()
	if f.timer != nil {
		f.timer.Stop()
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
	all := make([]*inflight, 0, len(sc.inflight))
	for f := range sc.inflight {
		if f.deciding {
			f.again = true
		} else {
			all = append(all, f)
		}
	}
	sc.mu.Unlock()
	for _, f := range all {
		sc.recheckRequest(ctx, f)
	}
}

func (sc *serverConn) recheckRequest(ctx context.Context, f *inflight) {
	dec := sc.mesh.policy.Authorize(ctx, &f.req)
	if mayChange(dec) {
		// Others must not wait with it.
		sc.mesh.spawn(func() { sc.settle(sc.mesh.ctx, f, sc.mesh.decideRequest) })
		return
	}
	sc.settle(ctx, f, func(ctx context.Context, r *policy.Request) (policy.Decision, *DeniedError) {
		return sc.mesh.decided(ctx, r, dec)
	})
}

// settle acts on a decision about a request under way.
func (sc *serverConn) settle(ctx context.Context, f *inflight, decide func(context.Context, *policy.Request) (policy.Decision, *DeniedError)) {
	dec, denied := decide(ctx, &f.req)
	if denied != nil {
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
	if _, ok := sc.inflight[f]; !ok {
		return // it is over
	}
	delete(sc.inflight, f)
	sc.mesh.decisions.cut(ctx, d, &f.req, sc.net.peer)
	f.cut(d)
}

// busy reports whether requests are under way, and when the last one ended; the zero time is never.
func (sc *serverConn) busy() (bool, time.Time) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	return len(sc.inflight) > 0, sc.lastEnd
}

// admitHTTP admits an HTTP request. The context it returns is cancelled, with the *DeniedError as its cause, when the
// request is no longer allowed; reading and writing its bodies fails then.
func (sc *serverConn) admitHTTP(w http.ResponseWriter, r *http.Request, path, host string) (context.Context, func(), *DeniedError) {
	ctx, cancel := context.WithCancelCause(r.Context())
	f := &inflight{req: policy.Request{
		Layer: policy.LayerHTTP, Method: r.Method, Path: path, Host: host,
		Header: maps.Clone(r.Header), // the handler may change its own
	}}
	f.cut = func(d *DeniedError) {
		cancel(d)
		if r.ProtoMajor < 2 {
			_ = sc.net.Close() // one request at a time: the connection is the request
			return
		}
		// The handler has not returned, or f would be gone: the stream is there to be reset.
		past, rc := time.Unix(1, 0), http.NewResponseController(w)
		_ = rc.SetReadDeadline(past)
		_ = rc.SetWriteDeadline(past)
	}
	if d := sc.admit(ctx, f); d != nil {
		cancel(d)
		return nil, nil, d
	}
	return ctx, func() {
		if r.ProtoMajor == 1 && r.Header.Get("Upgrade") != "" && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") {
			sc.keep(f)
			return
		}
		sc.end(f)
		cancel(nil)
	}, nil
}

// Admit decides a request like [Mesh.Authorize] does, and again for as long as it is under way: the context
// it returns is cancelled, with a *DeniedError as its cause, when the request is no longer allowed. If the request goes on
// nevertheless, its connection is closed. The caller calls done when the request is over. For adapters.
func (m *Mesh) Admit(ctx context.Context, r *policy.Request) (_ context.Context, done func(), _ error) {
	sc, err := m.connOfPeer(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	f := &inflight{req: *r}
	over := make(chan struct{})
	f.cut = func(d *DeniedError) {
		cancel(d)
		m.spawn(func() {
			select {
			case <-over:
			case <-time.After(cutGrace):
				_ = sc.net.Close()
			case <-m.ctx.Done():
			}
		})
	}
	if d := sc.admit(ctx, f); d != nil {
		cancel(d)
		return nil, nil, d
	}
	return ctx, func() {
		close(over)
		sc.end(f)
		cancel(nil)
	}, nil
}
