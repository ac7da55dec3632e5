package mesh

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// requestBody is a request's body on its way to be sent once. net/http closes the body with each attempt: a body of
// which nothing was read is kept open for the next.
type requestBody struct {
	mu      sync.Mutex
	body    io.ReadCloser
	read    bool
	closed  bool  // net/http has closed it
	settled bool  // there will be no other attempt
	err     error // the body's own, not ours
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.read = true
	b.mu.Unlock()
	n, err := b.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

func (b *requestBody) Close() error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	pass := first && (b.read || b.settled)
	b.mu.Unlock()
	if pass {
		return b.body.Close()
	}
	return nil
}

// settle ends the possibility of another attempt.
func (b *requestBody) settle() {
	b.mu.Lock()
	owed := b.closed && !b.read && !b.settled
	b.settled = true
	b.mu.Unlock()
	if owed {
		_ = b.body.Close()
	}
}

// failure is the error that reading the caller's body gave, if any.
func (b *requestBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// rewound returns a body for another attempt; ok is false when there can be none.
func (b *requestBody) rewound(req *http.Request) (_ *requestBody, ok bool) {
	b.mu.Lock()
	untouched := b.closed && !b.read
	b.mu.Unlock()
	if untouched {
		return &requestBody{body: b.body}, true
	}
	b.settle()
	_ = b.Close()
	if req.GetBody == nil {
		return b, false
	}
	body, err := req.GetBody()
	if err != nil {
		return b, false
	}
	return &requestBody{body: body}, true
}

// responseBody tells its use when the response has ended, one way or the other.
type responseBody struct {
	io.ReadCloser
	use *use

	// What peek has read ahead, and the error that followed it. The buffer goes back to buffers when it is read.
	head    []byte
	headErr error
	buf     *[peekSize]byte
	buffers *sync.Pool
}

// peekSize is what of a body is read ahead. More would save nothing: it is copied.
const peekSize = 512

// peek waits for the first byte of the body.
func (b *responseBody) peek(buffers *sync.Pool) error {
	b.buf, _ = buffers.Get().(*[peekSize]byte)
	if b.buf == nil {
		b.buf = new([peekSize]byte)
	}
	b.buffers = buffers
	n, err := b.ReadCloser.Read(b.buf[:])
	for n == 0 && err == nil {
		n, err = b.ReadCloser.Read(b.buf[:])
	}
	b.head, b.headErr = b.buf[:n], err
	if n > 0 || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (b *responseBody) Read(p []byte) (n int, err error) {
	switch {
	case len(b.head) > 0:
		n = copy(p, b.head)
		if b.head = b.head[n:]; len(b.head) == 0 {
			b.buffers.Put(b.buf)
			b.buf = nil
		}
		return n, nil
	case b.headErr != nil:
		err = b.headErr
	default:
		n, err = b.ReadCloser.Read(p)
	}
	if err != nil {
		b.use.end(err)
	}
	return n, err
}

func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	b.use.end(nil)
	return err
}

// upgradedBody is the connection that 101 Switching Protocols hands over.
type upgradedBody struct {
	*responseBody
	io.Writer
}

// CloseWrite ends the direction to the server, where net/http lets it.
func (b *upgradedBody) CloseWrite() error {
	if c, ok := b.Writer.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}
