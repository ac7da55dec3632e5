package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// use is one request's hold on an endpoint and a connection, from the pick to the end of the response.
type use struct {
	picked picked
	conn   *poolConn
	ctx    context.Context // the request's
	well   bool            // it was a success, should the body not break off
	once   sync.Once
}

// end is called when the response's body has ended, with the error if there was one.
func (u *use) end(err error) {
	u.once.Do(func() {
		switch {
		case err == nil, errors.Is(err, io.EOF):
			if u.well {
				u.picked.Succeeded(0)
			}
		case u.ctx.Err() != nil:
		case u.conn.Err() != nil && !u.conn.lane:
			u.picked.Failed()
		default: // of a lane nobody knows whether it was the endpoint or the handler
			u.picked.Rejected(0)
		}
		u.finish()
	})
}

func (u *use) done() { u.once.Do(u.finish) }

func (u *use) finish() {
	u.picked.Done()
	u.conn.pool.release(u.conn)
}

// streamError has the shape of net/http's unexported HTTP/2 stream error, which errors.As fills in
// by the names of the fields.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "http2: stream error" }

// refusedStream is REFUSED_STREAM: the server did nothing with the request (RFC 9113, section 8.7).
const refusedStream = 7

// goneAway is how net/http reports a request on a stream above the last one that GOAWAY names: the server
// will not have looked at it (RFC 9113, section 6.8). The error has no type; a test pins the text.
const goneAway = "http2: Transport received Server's graceful shutdown GOAWAY"

// failed judges an error of http.ClientConn.RoundTrip: what it says about the endpoint, and whether the request
// may be sent again.
func (r *roundTrip) failed(u *use, err error, took time.Duration, reused bool) (again bool) {
	switch {
	case r.transport.ctx.Err() != nil:
		return false
	case r.req.Context().Err() != nil:
		if errors.Is(r.req.Context().Err(), context.DeadlineExceeded) {
			u.picked.Rejected(took) // a hung endpoint must not look good
		}
		return false
	case r.body != nil && r.body.failure() != nil:
		return false
	}
	var se streamError
	isStream := errors.As(err, &se)
	broken, delivered := u.conn.Err() != nil, r.delivered.Load() || r.repeatable
	refused := isStream && se.Code == refusedStream || err.Error() == goneAway ||
		!broken && !isStream && !r.delivered.Load() && u.conn.Available() == 0 // GOAWAY came before the request could start
	switch {
	case refused:
		r.stale = append(r.stale, u.picked.Key)
	case !broken:
		// One stream failed (a handler panicked), or the request can't be sent at all.
		u.picked.Rejected(took)
		return false
	case u.conn.lane:
		r.lane = false // HTTP/2 will tell what is wrong, if anything is
	case reused && u.conn.http1:
		// Closing an idle connection is a server's right, and may cross with a request.
		r.stale = append(r.stale, u.picked.Key)
	case reused:
		u.picked.Failed()
		r.stale = append(r.stale, u.picked.Key)
	default:
		u.picked.Failed()
		r.tried = append(r.tried, u.picked.Key)
	}
	if delivered && !refused {
		r.replays++
		if !idempotent(r.req) || r.replays > maxReplays {
			return false
		}
	}
	if r.body == nil {
		return true
	}
	body, ok := r.body.rewound(r.req)
	r.body = body
	return ok
}

// idempotent follows net/http: PUT and DELETE are idempotent in RFC 9110, but not in everybody's
// handlers.
func idempotent(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return len(req.Header["Idempotency-Key"]) > 0 || len(req.Header["X-Idempotency-Key"]) > 0
}

// speaksOther reports whether a dial ended with the TLS alert no_application_protocol (RFC 7301, section 3.2):
// the endpoint is well, and serves raw connections alone, for example. crypto/tls does not export the type.
func speaksOther(err error) bool {
	const noApplicationProtocol tls.AlertError = 120
	oe, ok := errors.AsType[*net.OpError](err)
	return ok && oe.Op == "remote error" && oe.Err.Error() == noApplicationProtocol.Error()
}
