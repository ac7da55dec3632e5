package mesh

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/intramesh/mesh/internal/claims"
	"github.com/intramesh/mesh/policy"
)

// Handler wraps h so that the rules decide each request, with its method, path, host and headers. A request that is
// refused gets 403 and a problem document (RFC 9457) that names the rule; the connection stays. Within h,
// [PeerFromContext] tells the caller.
//
// The request that was judged is the one that h gets: a path that could be read in two ways (encoded slashes, dot
// segments, backslashes, …) is answered with 400; Host is lower case and without port; headers by which a
// proxy would claim an identity are removed.
//
// How long a peer may stall, and what it may hold meanwhile, is for the http.Server to say: without ReadHeaderTimeout, IdleTimeout,
// WriteTimeout and, in HTTP2, SendPingTimeout and WriteByteTimeout a member that stalls, or has the server's keys updated and never
// reads, keeps its connection.
//
// It also tells the listeners of the named ports (none given: the default one) to let in every peer that some
// request could be allowed for. Serve h on those ports alone: a request that comes in by another listener, or by none
// of this mesh, is refused.
func (m *Mesh) Handler(h http.Handler, port ...string) http.Handler {
	if len(port) == 0 {
		port = []string{""}
	}
	ports := slices.Clone(port)
	m.DeferToRequests(ports...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sc := m.connOf(r.Context()); sc != nil && slices.Contains(ports, sc.net.peer.Port) {
			m.serve(w, r, h, sc)
		} else {
			m.misplaced(w, r, sc, ports)
		}
	})
}

// misplaced refuses a request that came in by a listener which the handler is not for.
func (m *Mesh) misplaced(w http.ResponseWriter, r *http.Request, sc *serverConn, ports []string) {
	if sc == nil {
		m.log.Error("request refused: it did not come in by a listener of this mesh", "remote", r.RemoteAddr)
		http.Error(w, "this handler serves a mesh listener only", http.StatusForbidden)
		return
	}
	m.log.Error("request refused: the handler was made for other ports", "port", sc.net.peer.Port, "handler_ports", ports)
	http.Error(w, "misconfigured: mesh.Handler was made for other ports", http.StatusInternalServerError)
}

// serve does little itself: its stack is under the handler's, see [Mesh.decideRequest].
func (m *Mesh) serve(w http.ResponseWriter, r *http.Request, h http.Handler, sc *serverConn) {
	c := sc.admitHTTP(w, r)
	if c == nil {
		return
	}
	defer c.returned()
	h.ServeHTTP(w, &c.request)
}

// admitHTTP decides a request, and answers it if it is refused; then it returns nil.
func (sc *serverConn) admitHTTP(w http.ResponseWriter, r *http.Request) *webCall {
	dropClaims(r.Header)
	path, host, err := canonical(r)
	if err != nil {
		sc.refuseAmbiguous(w, r, err)
		return nil
	}
	if sc.mesh.drainingSince.Load() != nil {
		w.Header().Set("Connection", "close") // HTTP/2 sends GOAWAY
	}
	if r.ProtoMajor == 2 && !sc.net.shared.Load() {
		sc.net.shared.Store(true)
	}
	c := &webCall{w: w, one: r.ProtoMajor < 2} // all that cut looks at
	c.parent, c.peer = r.Context(), &sc.net.peer
	f := sc.mesh.newInflight(c)
	f.req.Layer, f.req.Method, f.req.Path, f.req.Host, f.req.Header = policy.LayerHTTP, r.Method, path, host, r.Header
	f.borrowed, c.under = true, f
	if d := sc.admit(c.parent, f); d != nil {
		writeDenied(w, r, d)
		return nil
	}
	c.take(r)
	return c
}

// dropClaims removes what could pass for the identity of the caller, or for another host.
func dropClaims(h http.Header) {
	for k := range h {
		if k == "Host" || claims.Has(k) { // beside :authority, HTTP/2 can carry another host
			delete(h, k)
		}
	}
}

func (sc *serverConn) refuseAmbiguous(w http.ResponseWriter, r *http.Request, err error) {
	req := policy.Request{Layer: policy.LayerHTTP, Method: r.Method, Path: r.URL.Path, Host: r.Host}
	sc.fill(&req)
	sc.mesh.decisions.refused(r.Context(), &req, sc.net.peer, err)
	http.Error(w, "mesh: "+err.Error(), http.StatusBadRequest)
}

// connOf finds the connection that a request came by: net/http puts its local address into the context, and ours is
// unique to the connection.
func (m *Mesh) connOf(ctx context.Context) *serverConn {
	return m.conns.find(ctx.Value(http.LocalAddrContextKey))
}

// flushTime is left to the server, after a handler has returned, to send the rest of its response.
const flushTime = 200 * time.Millisecond

// closeIfIdle closes a connection that [Mesh.Handler] serves and that has no request under way. It leaves alone
// what it knows nothing of: raw connections and gRPC's.
func (sc *serverConn) closeIfIdle() {
	if end := sc.idleSince(); !end.IsZero() && time.Since(end) > flushTime {
		_ = sc.net.Close()
	}
}

// close ends the connection now.
func (sc *serverConn) close() error {
	if sc.raw != nil {
		if c := sc.raw.active(); c != nil {
			_ = c.Close()
		}
	}
	return sc.net.Close()
}

func isStandard(method string) bool {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// canonical returns the one reading of a request's path and host, or an error when there are several.
func canonical(r *http.Request) (path, host string, err error) {
	if !isStandard(r.Method) {
		if up := strings.ToUpper(r.Method); isStandard(up) {
			return "", "", badRequest("method " + up + " is not in upper case")
		}
	}
	if r.ProtoMajor > 1 && r.URL.IsAbs() {
		return "", "", badRequest("the path has a host of its own")
	}
	if path, err = canonicalPath(r); err != nil {
		return "", "", err
	}
	host, err = canonicalHost(r.Host)
	return path, host, err
}
