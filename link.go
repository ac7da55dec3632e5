package mesh

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A link is a connection between two of our own nodes, with the streams that it carries one after the other. Each
// of them is a conn.
type link struct {
	mesh *Mesh
	tls  *tls.Conn
	net  *netConn
	home home // where it goes between streams

	// gen and leaf are what this side had when the handshake began: the generation, and our own certificate.
	gen  uint64
	leaf *x509.Certificate
	born time.Time

	failure atomic.Pointer[DeniedError] // set when this side cuts the connection

	// mu guards what a conn that is closed must not change any more.
	mu     sync.Mutex
	stream *conn // nil between streams

	writing chan struct{} // holds one token while somebody writes
	said    byte          // epoch of the last frame with data that was sent; guarded by the token

	// What follows belongs to the reader of the present stream, who holds its rmu, and between streams to whoever has the link.
	header  [frameHeader]byte
	nheader int8    // bytes of header read so far
	lead    int8    // how many of them, the last ones, are payload not yet read: there was no header. left is more than 0, then
	heard   byte    // epoch of the last frame with data that came
	left    int     // payload of the current data frame not yet read
	skip    int     // payload that nobody wants, not yet read
	skipped int     // how much of that there was since the present stream began
	control *[]byte // payload of a reset frame, as it comes in; the capacity is its length
	readErr error   // sticky
	epoch   byte    // of the present stream, or of the last
	ended   bool    // the peer sends no more in it
	gone    bool    // the peer has closed it
	brief   bool    // the present stream, or the last, is brief
	begun   bool    // the client has begun the next stream, and nobody has it yet
	stale   bool    // what comes may be of the stream before

	leaving bool      // it is being sent off; guarded by home
	owed    bool      // the server has not been told that the last stream is over; guarded by home
	parked  time.Time // when the last stream ended; guarded by home
	checked time.Time // when the peer's certificate was last verified; kept by whoever has the link between streams

	bye      atomic.Bool  // the server wants no more streams
	listed   atomic.Bool  // see openers
	watched  atomic.Bool  // see lookout.go
	detached atomic.Int32 // streams that our application has not closed, and the client has left
	lookout  *lookout     // the server's, nil until it is needed
}

// A home takes links whose stream this side has closed.
type home interface {
	// claim reports whether it will take l. If so, either park or unclaim follows.
	claim(l *link) bool
	park(l *link)
	unclaim(l *link)
}

// newLink wraps a connection whose handshake is over. Generation and certificate were those before the handshake.
func (m *Mesh) newLink(t *tls.Conn, n *netConn, h home, before credentials) *link {
	n.spillWrites = true
	return &link{
		mesh: m, tls: t, net: n, home: h, gen: before.gen, leaf: before.leaf, born: time.Now(), checked: time.Now(),
		writing: make(chan struct{}, 1),
	}
}

// begin makes the next stream. A client's is not open yet.
func (l *link) begin(opened bool) *conn {
	var c *conn
	if l.accepted() {
		c = new(conn)
	} else { // what balancing is to be told comes with it
		d := new(struct {
			conn
			release picked
			tally   tally
		})
		c, d.conn.release, d.conn.tally = &d.conn, &d.release, &d.tally
	}
	c.link, c.epoch, c.brief = l, l.epoch, l.brief
	c.opened.Store(opened)
	l.begun, l.ended, l.gone, l.skipped = false, false, false, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stream = c
	return c
}

// active returns the present stream, nil between streams.
func (l *link) active() *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream
}

// readFrame returns the header of the next frame; a reset comes as an error. It keeps what it has read over
// timeouts.
func (l *link) readFrame() (frame, error) {
	for l.readErr == nil {
		if l.skip > 0 {
			if err := l.drop(); err != nil {
				return frame{}, err
			}
			continue
		}
		if b := l.control; b != nil {
			n, err := l.tls.Read((*b)[len(*b):cap(*b)])
			*b = (*b)[:len(*b)+n]
			if len(*b) == cap(*b) {
				l.readErr = l.net.parseReset(*b)
			} else if n == 0 && err != nil {
				return frame{}, l.truncated(err)
			}
			continue
		}
		n, err := l.tls.Read(l.header[l.nheader:])
		if l.nheader += int8(n); l.nheader < frameHeader { //nolint:gosec // n ≤ frameHeader
			if n == 0 && err != nil {
				return frame{}, l.truncated(err)
			}
			continue
		}
		f, err := l.parseHeader()
		switch {
		case err != nil:
			l.readErr = err
		case l.isStale(f):
			l.skip = f.n
		case f.frameType == frameReset && f.n == 0:
			l.readErr = l.net.parseReset(nil)
		case f.frameType == frameReset:
			b := make([]byte, 0, f.n)
			l.control = &b
		default:
			return f, nil
		}
	}
	return frame{}, l.readErr
}

// readPayload reads what is left of the current data frame. It returns an error only if nothing has been read.
func (l *link) readPayload(p []byte) (int, error) {
	lead := copy(p, l.header[frameHeader-l.lead:])
	l.lead -= int8(lead) //nolint:gosec // ≤ frameHeader
	n, err := l.tls.Read(p[lead:min(len(p), lead+l.left)])
	l.left -= n
	if n += lead; n > 0 {
		return n, nil
	}
	return 0, l.truncated(err)
}

// truncated turns an end of the transport without an end of the stream into an error, since it might be an
// attacker's or a crash.
func (l *link) truncated(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		l.readErr = io.ErrUnexpectedEOF
		return l.readErr
	}
	return err
}

// settle takes a frame that comes after this side has closed the stream; false means that the link is of no more
// use.
func (l *link) settle(f frame) bool {
	switch {
	case f.frameType == frameBye:
		l.bye.Store(true)
		return !l.accepted() // servers say it
	case f.epoch != l.epoch:
		return false
	case f.frameType == frameEnd && !l.ended:
		l.ended = true
	case f.frameType == frameClose && !l.gone:
		l.ended, l.gone = true, true
	default:
		return false // data that nobody will read, for example: TCP would send a reset
	}
	return true
}

// accepted reports whether this side is the server.
func (l *link) accepted() bool { return l.net.peer.conn != nil }

// writeFrame hands one frame to TLS as one record. TLS never sees a timeout: see netConn. The caller holds the token.
func (l *link) writeFrame(b []byte) error {
	if err := l.net.waitSpill(); err != nil {
		return err
	}
	if l.net.writeTimedOut() {
		return os.ErrDeadlineExceeded
	}
	_, err := l.tls.Write(b)
	return err
}

// say sends a frame without payload.
func (l *link) say(t frameType, epoch byte) error {
	b := l.mesh.buffers.words.Get().(*[frameHeader]byte)
	defer l.mesh.buffers.words.Put(b)
	putHeader(b[:], t, epoch, 0)
	return l.writeFrame(b[:])
}

// sayNow is say for somebody who must not wait: what can't be sent at once is sent in the background. It reports
// whether all was sent.
func (l *link) sayNow(t frameType, epoch byte) bool {
	if l.net.try() == nil {
		if l.net.SetWriteDeadline(time.Now().Add(resetWait)) != nil {
			return false
		}
	} else {
		l.net.tryWrites.Add(1)
		defer l.net.tryWrites.Add(-1)
	}
	return l.say(t, epoch) == nil && !l.net.spilling()
}

// past is a deadline that wakes whoever reads.
func past() time.Time { return time.Unix(1, 0) }
