package mesh

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// refuseTimeout bounds telling an HTTP client why its connection is refused, refuseIdle how long that waits for a request.
	refuseTimeout = 5 * time.Second
	refuseIdle    = time.Second
	// A client that comes back often is better told on the connection that it has: at most maxKept of these are kept, for keptTimeout,
	// or keptIdle without a request.
	keptTimeout = 10 * time.Minute
	keptIdle    = time.Minute
	maxKept     = 256
	// maxRefusedHeader bounds the headers of a request that is refused.
	maxRefusedHeader = 64 << 10
)

// refuseHTTP answers the requests of a connection that is refused, and returns when it is closed. The application never sees it.
func refuseHTTP(ctx context.Context, sc *serverConn, t *tls.Conn, d *DeniedError) {
	m := sc.mesh
	limit, idle := keptTimeout, keptIdle
	defer m.kept.Add(-1)
	keep := m.kept.Add(1) <= maxKept
	if !keep {
		limit, idle = refuseTimeout, refuseIdle
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = sc.net.Close() })() // breaks whatever it waits for
	gone := make(chan struct{})
	sc.net.afterClose(func() { close(gone) })
	var told atomic.Bool
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			why := d
			if told.Swap(true) {
				if why = sc.refuseAgain(ctx); why == nil {
					sc.noLongerRefused()
					<-r.Context().Done() // of the connection
					return
				}
			}
			if !keep {
				w.Header().Set("Connection", "close")
			}
			writeDenied(w, r, why)
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateIdle && t.ConnectionState().NegotiatedProtocol == alpnHTTP2 {
				sc.refusing.Store(t) // its settings come first
			}
		},
		ReadTimeout:    refuseTimeout,
		WriteTimeout:   refuseTimeout,
		IdleTimeout:    idle,
		MaxHeaderBytes: maxRefusedHeader,
		HTTP2:          &http.HTTP2Config{WriteByteTimeout: refuseTimeout, SendPingTimeout: keptIdle},
		ErrorLog:       slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	_ = srv.Serve(&oneListener{conn: t, addr: sc.net.LocalAddr()})
	<-gone
	_ = srv.Close()
}

// refuseAgain decides a refused connection once more, for another request; nil is that it is allowed by now.
func (sc *serverConn) refuseAgain(ctx context.Context) *DeniedError {
	r := sc.request()
	dec := sc.rules.Authorize(ctx, r)
	d := sc.mesh.decided(ctx, r, &dec)
	if d != nil {
		sc.mesh.decisions.denied(ctx, d, r, sc.net.peer)
	}
	return d
}

// noLongerRefused ends a connection that is being told no, which was right until now: its client may connect anew. HTTP/2 has a word
// for that, after which clients make there what requests are under way.
func (sc *serverConn) noLongerRefused() {
	if sc.allowed.Swap(true) {
		return
	}
	t := sc.refusing.Load()
	if t == nil {
		_ = sc.net.Close()
		return
	}
	sc.mesh.spawn(func() {
		gone := make(chan struct{})
		sc.net.afterClose(func() { close(gone) })
		// GOAWAY: of all streams after 0 nothing was done (RFC 9113, section 6.8).
		_ = sc.net.SetWriteDeadline(time.Now().Add(resetWait))
		_, _ = t.Write([]byte{0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		select {
		case <-gone:
		case <-time.After(flushTime):
			_ = sc.net.Close()
		}
	})
}

// oneListener accepts one connection, then ends.
type oneListener struct {
	conn net.Conn
	addr net.Addr
}

func (l *oneListener) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, net.ErrClosed
	}
	c := l.conn
	l.conn = nil
	return c, nil
}
func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return l.addr }
