package mesh

import (
	"net/http"
	"strings"
	"time"
)

// webCall is an HTTP request under way, and its context.
type webCall struct {
	callContext
	inflight

	conn *serverConn
	w    http.ResponseWriter
	r    *http.Request
}

// header returns nothing: what the request came with is in req until it is let in, and the handler's from then on.
func (c *webCall) header() http.Header { return nil }

func (c *webCall) cut(d *DeniedError) {
	c.wake().cancel(d)
	if c.r.ProtoMajor < 2 {
		_ = c.conn.net.Close() // one request at a time: the connection is the request
		return
	}
	// The handler has not returned, or the request would be gone: the stream is there to be reset.
	past, rc := time.Unix(1, 0), http.NewResponseController(c.w)
	_ = rc.SetReadDeadline(past)
	_ = rc.SetWriteDeadline(past)
}

// returned says that the handler has.
func (c *webCall) returned() {
	if c.r.ProtoMajor == 1 && c.r.Header["Upgrade"] != nil && strings.Contains(strings.ToLower(c.r.Header.Get("Connection")), "upgrade") {
		c.conn.keep(&c.inflight)
		return
	}
	c.conn.end(&c.inflight)
	c.finish()
}
