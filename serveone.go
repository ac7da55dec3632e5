package mesh

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// maxOneHeader bounds the headers of requests that the mesh itself answers.
const maxOneHeader = 64 << 10

// serveOne answers one request on a connection that the application never sees, and returns when it is closed, after limit
// at the latest.
func serveOne(ctx context.Context, sc *serverConn, t *tls.Conn, limit time.Duration, h http.HandlerFunc) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = sc.net.Close() })() // breaks whatever it waits for
	gone := make(chan struct{})
	sc.net.afterClose(func() { close(gone) })
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			h(w, r)
		}),
		ReadHeaderTimeout: limit,
		IdleTimeout:       limit / 5,
		MaxHeaderBytes:    maxOneHeader,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	_ = srv.Serve(&oneListener{conn: t, addr: sc.net.LocalAddr()})
	<-gone
	_ = srv.Close()
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
