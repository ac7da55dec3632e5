package mesh

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"sync"
)

// maxResponseHeader bounds the header of a response, interim ones included.
const maxResponseHeader = 1 << 20

// A direct is a connection over HTTP/1.1 on which the goroutine that makes a request also writes it, and reads the response. An
// http.ClientConn has a goroutine for each, and three that hand over to each other wake threads: see docs/performance.md. It carries one
// request at a time, which has no body: who sends one may be answered meanwhile. The wire format is net/http's business.
//
// What is not guarded by mu belongs to whoever has the connection from the pool.
type direct struct {
	tls     *tls.Conn
	net     *netConn
	state   *tls.ConnectionState // what responses show
	buffers *sync.Pool           // of *wireBuffers

	limit int64 // of what is still read
	wrote bool  // something of the present request was sent
	ended bool  // the server sends no more
	probe [1]byte

	mu   sync.Mutex
	busy bool
	err  error // why it is of no more use
}

// wireBuffers are borrowed from the start of a request to the end of its response.
type wireBuffers struct {
	r *bufio.Reader
	w *bufio.Writer
}

// newDirect returns nil for a connection of which it can't be known without waiting whether it has something to read.
func newDirect(c net.Conn, buffers *sync.Pool) *direct {
	t, ok := c.(*tls.Conn)
	if !ok {
		return nil
	}
	n, ok := t.NetConn().(*netConn)
	if !ok || n.try() == nil {
		return nil
	}
	cs := t.ConnectionState()
	return &direct{tls: t, net: n, state: &cs, buffers: buffers}
}

// Read is what the response is read by.
func (d *direct) Read(p []byte) (int, error) {
	if d.limit <= 0 {
		return 0, fmt.Errorf("the header of the response exceeds %d bytes", maxResponseHeader)
	}
	n, err := d.tls.Read(p[:min(int64(len(p)), d.limit)])
	d.limit -= int64(n)
	d.ended = d.ended || err != nil
	return n, err
}

// Write is what the request is written by.
func (d *direct) Write(p []byte) (int, error) {
	d.wrote = true
	return d.tls.Write(p)
}

// Err is why the connection is of no more use; nil if it is.
func (d *direct) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// available reports whether it could take a request.
func (d *direct) available() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err == nil && !d.busy
}

// fail says why the connection is of no more use. The first reason counts.
func (d *direct) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
	}
}

// free ends the use by an exchange, which may be the end of the connection.
func (d *direct) free(alive bool, err error) {
	if !alive {
		d.fail(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy = false
}

// borrow returns buffers for an exchange.
func (d *direct) borrow() *wireBuffers {
	b, _ := d.buffers.Get().(*wireBuffers)
	if b == nil {
		return &wireBuffers{bufio.NewReader(d), bufio.NewWriter(d)}
	}
	b.r.Reset(d)
	b.w.Reset(d)
	return b
}

func (d *direct) giveBack(b *wireBuffers) {
	b.r.Reset(nil)
	b.w.Reset(nil)
	d.buffers.Put(b)
}

// look reports whether a connection that nobody uses is open and has nothing to be read, as it should be between a response and the
// next request. It does not wait, and fails the connection if not.
func (d *direct) look() bool {
	d.net.tryRead = true
	d.net.tryWrites.Add(1)
	n, err := d.tls.Read(d.probe[:])
	d.net.tryRead, _ = false, d.net.tryWrites.Add(-1)
	switch {
	case n > 0:
		d.fail(errUnsolicited)
	case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
		return d.Err() == nil
	default:
		d.fail(err)
	}
	return false
}

var errUnsolicited = errors.New("the server answers what it was not asked")

// roundTrip is http.RoundTripper's, for a request that sendable accepts.
func (d *direct) roundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	d.mu.Lock()
	d.busy = true
	d.mu.Unlock()
	d.limit, d.wrote = maxResponseHeader, false
	x := &exchange{conn: d, ctx: ctx, trace: httptrace.ContextClientTrace(ctx), buf: d.borrow()}
	if ctx.Done() != nil {
		x.stop = context.AfterFunc(ctx, d.cut)
	}
	err := errPanic
	defer func() {
		if errors.Is(err, errPanic) {
			_ = x.end(err)
		}
	}()
	if err = x.send(req); err != nil {
		x.keep = true // unless something was sent, the request is to blame
		return nil, x.end(err)
	}
	resp, err := x.receive(req)
	if err != nil {
		return nil, x.end(err)
	}
	return resp, nil
}

var errPanic = errors.New("a hook of the caller's panicked")

// cut ends what is under way, because the caller does not wait for it any more.
func (d *direct) cut() {
	d.fail(context.Canceled)
	_ = d.net.Close()
}

func (x *exchange) send(req *http.Request) error {
	if err := req.Write(x.buf.w); err != nil {
		return err
	}
	return x.buf.w.Flush()
}

// receive reads the response up to where its body begins.
func (x *exchange) receive(req *http.Request) (*http.Response, error) {
	d, r, trace := x.conn, x.buf.r, x.trace
	if trace != nil && trace.GotFirstResponseByte != nil {
		if _, err := r.Peek(1); err == nil {
			trace.GotFirstResponseByte()
		}
	}
	var resp *http.Response
	for {
		var err error
		if resp, err = http.ReadResponse(r, req); err != nil {
			return nil, err
		}
		if resp.StatusCode > 199 || resp.StatusCode < 100 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, err
			}
			d.limit = maxResponseHeader // how many there may be is the caller's business then
		}
	}
	d.limit = math.MaxInt64
	resp.TLS = d.state
	x.keep = !resp.Close && resp.StatusCode > 199
	if req.Method == http.MethodHead || resp.ContentLength == 0 || resp.Body == http.NoBody {
		_ = x.end(io.EOF)
		resp.Body = http.NoBody
		return resp, nil
	}
	x.body, x.left = resp.Body, resp.ContentLength
	resp.Body = x
	return resp, nil
}

// maxDirect bounds the header of a request that is sent before anything is read: it should fit into what systems keep for a server that
// has not read it.
const maxDirect = 8 << 10

// sendable reports whether a request without a body can be sent on a direct connection. What net/http might refuse, it is to refuse itself.
func sendable(req *http.Request) bool {
	if req.Cancel != nil || !plainWord(req.Method) { //nolint:staticcheck // somebody may still use it
		return false
	}
	size := len(req.URL.Path) + len(req.URL.RawQuery) + len(req.Host)
	for k, values := range req.Header {
		if k == "" || !plainWord(k) {
			return false
		}
		for _, v := range values {
			size += len(k) + len(v)
			for i := range len(v) {
				if v[i] < ' ' && v[i] != '\t' || v[i] == 0x7f {
					return false
				}
			}
		}
	}
	return size <= maxDirect
}

// plainWord reports whether s has nothing but letters, digits and hyphens.
func plainWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}
