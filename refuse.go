package mesh

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// refuseTimeout bounds telling an HTTP client why its connection is refused.
	refuseTimeout = 5 * time.Second
	// maxRefuseHeader bounds the request that is answered with the refusal.
	maxRefuseHeader = 64 << 10
)

// refuse tells a verified peer why it may not connect, in the protocol it speaks, and closes the
// connection. It blocks, for refuseTimeout at most.
func (m *Mesh) refuse(ctx context.Context, sc *serverConn, t *tls.Conn, d *DeniedError) {
	switch p := t.ConnectionState().NegotiatedProtocol; {
	case sc.raw != nil:
		sc.raw.reset(d)
	case p == alpnHTTP2, p == alpnHTTP1, sc.deferred:
		m.refuseHTTP(ctx, sc, t, d)
	default:
		_ = t.Close() // a protocol of which we know no word
	}
}

// refuseHTTP serves one connection with nothing but the denial.
func (m *Mesh) refuseHTTP(ctx context.Context, sc *serverConn, t *tls.Conn, d *DeniedError) {
	ctx, cancel := context.WithTimeout(ctx, refuseTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { sc.net.Close() }) // breaks whatever it waits for
	defer stop()
	gone := make(chan struct{})
	sc.net.afterClose(func() { close(gone) })
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			writeDenied(w, r, d)
		}),
		ReadHeaderTimeout: refuseTimeout,
		IdleTimeout:       refuseTimeout / 5,
		MaxHeaderBytes:    maxRefuseHeader,
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

// problem is an RFC 9457 problem document.
type problem struct {
	Type   string       `json:"type"`
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail"`
	Denied *DeniedError `json:"denied"`
}

// writeDenied answers a request with the denial: 403 and a problem document, or what gRPC expects.
func writeDenied(w http.ResponseWriter, r *http.Request, d *DeniedError) {
	h := w.Header()
	h.Set(deniedHeader, encodeDenied(d))
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		// A response of headers alone; gRPC over HTTP2, "Responses".
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", "7") // PERMISSION_DENIED
		h.Set("Grpc-Message", url.PathEscape(d.Error()))
		w.WriteHeader(http.StatusOK)
		return
	}
	body, err := json.Marshal(problem{
		Type: "about:blank", Title: "Denied by the rules of the mesh", Status: http.StatusForbidden, Detail: d.Error(), Denied: d,
	})
	if err != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusForbidden)
	_, _ = w.Write(append(body, '\n'))
}
