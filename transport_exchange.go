package mesh

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
)

// An exchange is a request on a direct connection until its response has ended. It is the response's body.
type exchange struct {
	conn  *direct
	ctx   context.Context //nolint:containedctx // the request's
	trace *httptrace.ClientTrace
	stop  func() bool // says that the end of ctx does not matter any more; nil if it never ends
	keep  bool        // by all that was said, the connection may carry another request after this one

	mu      sync.Mutex
	buf     *wireBuffers // nil after the end
	body    io.Reader    // net/http's; as an io.Closer it would wait for what was not read
	left    int64        // of the body; negative when that is unknown
	reading bool
	over    error // what further reads return; nil until the end
}

func (x *exchange) Read(p []byte) (int, error) {
	x.mu.Lock()
	body, err := x.body, x.over
	if err == nil && x.reading {
		err = errTwoReaders
	}
	x.reading = x.reading || err == nil
	x.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := body.Read(p)
	x.mu.Lock()
	x.reading = false
	x.left -= int64(n)
	x.mu.Unlock()
	if err != nil {
		err = x.end(err)
	}
	return n, err
}

var errTwoReaders = errors.New("mesh: two goroutines read a response's body")

// Close ends the response. The connection stays if the rest of the body is here already.
func (x *exchange) Close() error {
	x.mu.Lock()
	err := http.ErrBodyReadAfterClose
	if x.over == nil && !x.reading && x.left >= 0 && x.left <= int64(x.buf.r.Buffered()) {
		_, _ = x.buf.r.Discard(int(x.left))
		err = io.EOF
	}
	x.finish(err)
	x.over = http.ErrBodyReadAfterClose
	x.mu.Unlock()
	return nil
}

// end ends the exchange, and returns what the caller is to be told.
func (x *exchange) end(err error) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.finish(err)
	return x.over
}

// finish ends the exchange, if it has not ended yet. The connection lives on after io.EOF, the response's regular end, and when nothing of
// the request was sent. The caller holds mu.
func (x *exchange) finish(err error) {
	if x.over != nil {
		return
	}
	d, whole := x.conn, err == io.EOF //nolint:errorlint // wrapped, it would be another one
	x.over = err
	alive := x.keep && (whole || !d.wrote) && !x.reading && !d.ended && x.buf.r.Buffered() == 0
	if x.stop != nil && !x.stop() {
		alive = false // or soon
		if !whole {
			x.over = context.Cause(x.ctx)
		}
	}
	if !x.reading {
		d.giveBack(x.buf)
	}
	x.buf, x.body = nil, nil
	d.free(alive, err)
	if alive && x.trace != nil && x.trace.PutIdleConn != nil {
		x.trace.PutIdleConn(nil)
	}
}
