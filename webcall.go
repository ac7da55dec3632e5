package mesh

import (
	"net/http"
	"strings"
	"time"
)

// webCall is the request that a handler gets, and its context: one object. Whoever keeps one keeps both, and may for as long as he likes.
type webCall struct {
	callContext

	under   *inflight
	w       http.ResponseWriter
	one     bool // HTTP/1: one request at a time
	upgrade bool // the connection may outlive the handler
	request http.Request
}

// take makes the request that the handler gets of the one that came in.
func (c *webCall) take(r *http.Request) {
	c.upgrade = r.ProtoMajor == 1 && r.Header["Upgrade"] != nil && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
	c.request = *r.WithContext(c) // on the stack, since it is inlined
	c.request.Host = c.under.req.Host
	if r.URL.Host != "" {
		r.URL.Host = c.request.Host // the target was in the absolute form
	}
}

// header returns nothing: what the request came with is in req until it is let in, and the handler's from then on.
func (c *webCall) header() http.Header { return nil }

func (c *webCall) cut(d *DeniedError) {
	c.wake().cancel(d)
	if c.one {
		_ = c.peer.conn.net.Close() // the connection is the request
		return
	}
	// The handler has not returned, or the request would be gone: the stream is there to be reset.
	past, rc := time.Unix(1, 0), http.NewResponseController(c.w)
	_ = rc.SetReadDeadline(past)
	_ = rc.SetWriteDeadline(past)
}

// returned says that the handler has.
func (c *webCall) returned() {
	if c.upgrade {
		c.peer.conn.keep(c.under)
		return
	}
	c.peer.conn.end(c.under)
	c.finish()
}
