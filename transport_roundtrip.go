package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxEndpoints bounds how many endpoints a request is tried at when nothing of it was delivered, maxReplays how
	// often it is sent again when it may have been.
	maxEndpoints = 16
	maxReplays   = 3
)

// roundTrip is one request on its way, until its response has ended. It is one object for all that belongs to it.
type roundTrip struct {
	transport *transport
	target    target
	set       *endpointSet
	req       *http.Request // the caller's, never changed
	out       http.Request  // what is sent
	url       url.URL
	body      *requestBody // nil when there is none
	upgrade   bool
	plain     bool // it has no body, and means the same over HTTP/1.1
	lane      bool // it may take a lane
	use       use
	response  responseBody

	repeatable bool        // whatever became of an attempt
	delivered  atomic.Bool // the headers of the current attempt were written; only set for what is not repeatable
	attempts   int
	replays    int
	tried      []endpoint // failed on a new connection
	stale      []endpoint // failed on an old connection: a new one may do
	slow       []endpoint // have not connected yet
	last       error
}

var errUnasked = errors.New("the server switches protocols unasked")

func newRoundTrip(t *transport, req *http.Request) (*roundTrip, error) {
	switch {
	case req.URL == nil:
		return nil, errors.New("mesh: nil Request.URL")
	case req.Header == nil:
		return nil, errors.New("mesh: nil Request.Header")
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return nil, fmt.Errorf("mesh: unsupported protocol scheme %q", req.URL.Scheme)
	}
	tg, host, err := urlTarget(req.URL.Host)
	if err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	r := &roundTrip{transport: t, target: tg, set: t.endpoints(req.Context(), tg), req: req}
	if req.Body != nil && req.Body != http.NoBody {
		r.body = &requestBody{body: req.Body}
	}
	r.upgrade = req.Header.Get("Upgrade") != "" && headerHasToken(req.Header["Connection"], "upgrade")

	if r.repeatable = idempotent(req) && (r.body == nil || req.GetBody != nil); !r.repeatable {
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			WroteHeaders: func() { r.delivered.Store(true) },
		}))
	}
	r.plain = r.body == nil && fitsLane(req)
	r.lane = r.plain && r.repeatable
	r.out, r.url = *req, *req.URL
	r.out.URL = &r.url
	// TLS it is: a server may refuse the http scheme there (RFC 9113, section 8.3.1).
	r.url.Scheme = "https"
	if req.Host == "" || req.Host == req.URL.Host {
		r.out.Host = host
	}
	return r, nil
}

// urlTarget reads the host of a URL: a service and, in front or behind, a named port. It also returns the host without
// the port.
func urlTarget(host string) (target, string, error) {
	h, port := host, ""
	if rest, ok := strings.CutPrefix(host, "_"); ok {
		port, h, ok = strings.Cut(rest, ".")
		if !ok {
			return target{}, "", fmt.Errorf("host %q: want _port.service", host)
		}
		h = joinTarget(h, port)
	}
	t, err := parseTarget(h)
	h, _, _ = strings.Cut(h, ":")
	return t, h, err
}

func headerHasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// run tries endpoints until one answers, or trying another would not be safe.
func (r *roundTrip) run() (*http.Response, error) {
	for len(r.tried)+len(r.stale)+len(r.slow) < maxEndpoints {
		view := r.set.current()
		p, fresh, err := r.pick()
		if err != nil {
			if r.last == nil {
				r.last = &DialError{Service: r.target.service, Port: r.target.port, Err: err}
			}
			break
		}
		if resp := r.transport.early(r.target, p.Key.addr, &r.out); resp != nil {
			p.Done()
			if r.body != nil {
				r.body.settle()
				_ = r.body.Close()
			}
			resp.Request = r.req
			return resp, nil
		}
		resp, again, err := r.try(view, &p, fresh)
		if err == nil {
			return resp, nil
		}
		r.last = err
		if !again {
			break
		}
	}
	if de := (*DialError)(nil); errors.As(r.last, &de) && len(r.tried) > 0 {
		dup := *de // it may be shared with requests that waited for the same dial
		dup.Attempts = len(r.tried)
		return nil, &dup
	}
	return nil, r.last
}

// pick prefers an endpoint that was not tried at all to one whose old connection had died, and that to one that still connects.
func (r *roundTrip) pick() (_ picked, fresh bool, err error) {
	p, err := r.set.pick(append(append(r.tried, r.stale...), r.slow...)...)
	if errors.Is(err, errAllTried) && len(r.stale) > 0 {
		p, err = r.set.pick(append(r.tried, r.slow...)...)
		fresh = true
	}
	if errors.Is(err, errAllTried) && len(r.slow) > 0 {
		p, err = r.set.pick(append(r.tried, r.stale...)...)
		return p, false, err
	}
	return p, fresh, err
}

// try makes one attempt; again says that another one is safe.
func (r *roundTrip) try(view *endpointView, p *picked, fresh bool) (_ *http.Response, again bool, err error) {
	ctx := r.req.Context()
	start := time.Now()
	c, reused, err := r.connect(view, p, fresh)
	if err != nil {
		again = ctx.Err() == nil && !errors.Is(err, ErrClosed)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			p.Rejected(time.Since(start)) // it hangs, perhaps
		}
		if again {
			if !speaksOther(err) {
				p.Failed()
			}
			if errors.Is(err, errSlow) {
				r.slow = append(r.slow, p.Key)
			} else {
				r.tried = append(r.tried, p.Key)
			}
		}
		p.Done()
		return nil, again, err
	}
	out, u := &r.out, &r.use
	if r.attempts++; r.attempts > 1 { // an earlier attempt's may still be read
		dup := r.out
		out, u = &dup, new(use)
	}
	u.picked, u.conn, u.ctx = *p, c, ctx
	ours := true
	defer func() {
		if ours { // also when a hook of the caller's panics
			u.done()
		}
	}()
	gotConn(ctx, c, reused)
	r.delivered.Store(false)
	if r.body != nil {
		out.Body = r.body
	}
	start = time.Now()
	resp, err := c.RoundTrip(out, r.plain)
	took := time.Since(start)
	if err != nil {
		again = r.failed(u, err, took, reused)
		return nil, again, r.wrap(u, err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols && !r.upgrade {
		_ = resp.Body.Close() // or else it would outlive the request's context
		u.picked.Rejected(took)
		return nil, false, r.wrap(u, errUnasked)
	}
	resp.Request = r.req
	if err := r.deliver(u, resp); err != nil {
		again = r.failed(u, err, took, reused)
		_ = resp.Body.Close()
		return nil, again, r.wrap(u, err)
	}
	ours = false
	denied := resp.StatusCode == http.StatusForbidden && resp.Header.Get(deniedHeader) != ""
	if denied {
		r.transport.refused(r.target, p.Key.addr, resp)
	}
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || denied {
		u.picked.Rejected(took)
	} else {
		if !reused {
			took = 0 // setting up HTTP/2 is not the endpoint's usual latency
		}
		if u.well = !endsWithHeader(resp); u.well {
			u.picked.Reached(took)
		} else {
			u.picked.Succeeded(took)
		}
	}
	return resp, false, nil
}

// deliver makes the end of the response's body the end of the use. Servers send header and body one after the
// other: when the body is announced, and the request could be repeated, the response counts as soon as the body begins, so
// that a server that dies in between fails nothing.
func (r *roundTrip) deliver(u *use, resp *http.Response) error {
	if endsWithHeader(resp) {
		u.done()
		return nil
	}
	body := &r.response
	*body = responseBody{ReadCloser: resp.Body, use: u}
	resp.Body = body
	if resp.StatusCode == http.StatusSwitchingProtocols {
		if w, ok := body.ReadCloser.(io.Writer); ok {
			resp.Body = &upgradedBody{body, w}
		}
		return nil
	}
	if resp.ContentLength > 0 && r.repeatable {
		return body.peek(&r.transport.peeks)
	}
	return nil
}

// connect returns a connection to p, and whether it was used before.
func (r *roundTrip) connect(view *endpointView, p *picked, fresh bool) (*poolConn, bool, error) {
	for {
		pl, err := r.transport.pool(r.target, p.Key, view)
		if err != nil {
			return nil, false, err
		}
		var c *poolConn
		reused := false
		if r.upgrade {
			c, err = pl.dialSolo(r.req.Context())
		} else {
			c, reused, err = pl.acquire(r.req.Context(), fresh, r.lane, r.patience())
		}
		if !errors.Is(err, errPoolGone) {
			return c, reused, err
		}
	}
}

// patience is how long to wait for a new connection before another endpoint is asked, 0 without end: if there is none, or others were
// slow too.
func (r *roundTrip) patience() time.Duration {
	const most = 2
	if n := len(r.slow); n < most && len(r.tried)+len(r.stale)+n+1 < r.set.set.Len() {
		return silence << n
	}
	return 0
}

// endsWithHeader reports whether nothing follows, so that a caller who doesn't close the body does no harm.
func endsWithHeader(resp *http.Response) bool {
	return resp.StatusCode != http.StatusSwitchingProtocols &&
		(resp.Body == http.NoBody || resp.ContentLength == 0 || resp.Request.Method == http.MethodHead)
}

// wrap says who failed. What the caller caused, by its context or its body, it gets as it is.
func (r *roundTrip) wrap(u *use, err error) error {
	switch {
	case r.req.Context().Err() != nil, r.body != nil && r.body.failure() != nil:
		return err
	case r.transport.ctx.Err() != nil:
		return ErrClosed
	}
	return fmt.Errorf("mesh: %s at %s: %w", r.target, u.picked.Key.addr, err)
}

// gotConn tells the caller's trace which connection is used, as http.Transport does.
func gotConn(ctx context.Context, c *poolConn, reused bool) {
	if tr := httptrace.ContextClientTrace(ctx); tr != nil && tr.GotConn != nil {
		tr.GotConn(httptrace.GotConnInfo{Conn: c.net, Reused: reused})
	}
}
