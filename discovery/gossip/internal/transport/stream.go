package transport

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/guard"
)

// A stream carries one request and one reply, each as chunks of
//
//	length uint16 | sealed chunk
//
// The request starts with 16 random bytes. They, the direction, the index of the chunk and
// whether it is the last one are authenticated with each chunk: none can be reordered, left out, or used
// in another stream. Memory is spent on authentic chunks only, but for the one that is read.
const (
	idSize    = 16
	chunkSize = 32 << 10
	// largeSize is the size from which few messages are read at one time, see maxLarge.
	largeSize = 256 << 10
)

// Directions.
const (
	request = "mesh gossip 1 request"
	reply   = "mesh gossip 1 reply"
)

var (
	errTooLong = errors.New("gossip: message exceeds the limit")
	errGuard   = errors.New("gossip: refused message")
)

// writeMessage sends b as chunks, in one Write.
func (s *Sealer) writeMessage(w io.Writer, b []byte, direction string, id [idSize]byte) error {
	var out []byte
	if direction == request {
		out = append(out, id[:]...)
	}
	for i := 0; ; i++ {
		chunk := b[:min(len(b), chunkSize)]
		b = b[len(chunk):]
		out = binary.BigEndian.AppendUint16(out, uint16(len(chunk)+Overhead)) //nolint:gosec // at most 32 KiB and a little
		out = s.Seal(out, chunk, purpose(direction, id, i, len(b) == 0))
		if len(b) == 0 {
			break
		}
	}
	_, err := w.Write(out)
	return err
}

// readMessage reads what writeMessage sent, up to limit bytes. It calls large once before it keeps more than largeSize.
func (s *Sealer) readMessage(r io.Reader, direction string, id [idSize]byte, limit int, large func() error) ([]byte, error) {
	var message []byte
	buf := make([]byte, chunkSize+Overhead)
	for i := 0; ; i++ {
		var head [2]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		n := int(binary.BigEndian.Uint16(head[:]))
		if n > len(buf) {
			return nil, errTooLong
		}
		if _, err := io.ReadFull(r, buf[:n]); err != nil {
			return nil, err
		}
		last := n < len(buf)
		chunk, err := s.Open(buf[:n], purpose(direction, id, i, last))
		if err != nil && !last {
			last = true
			chunk, err = s.Open(buf[:n], purpose(direction, id, i, last))
		}
		if err != nil {
			return nil, err
		}
		if len(message)+len(chunk) > limit {
			return nil, errTooLong
		}
		if len(message) <= largeSize && len(message)+len(chunk) > largeSize {
			if err := large(); err != nil {
				return nil, err
			}
		}
		if len(message)+len(chunk) > cap(message) { // doubling leaves a quarter of the garbage that append's growth does
			message = slices.Grow(message, max(len(chunk), min(len(message), limit-len(message))))
		}
		if message = append(message, chunk...); last {
			return message, nil
		}
	}
}

func purpose(direction string, id [idSize]byte, i int, last bool) string {
	return direction + string(id[:]) + strconv.Itoa(i) + strconv.FormatBool(last)
}

// A stream is a connection as memberlist sees it: it writes one message in one Write,
// and reads one. Only messages that are authentic and pass the guard are read.
type stream struct {
	net.Conn
	raw      net.Conn // what Conn is, or runs on
	t        *Transport
	inbound  bool           // it counts as such
	from     netip.AddrPort // the peer
	host     netip.Addr     // who opened an inbound stream
	id       [idSize]byte
	in       *bytes.Reader
	sync     bool // it holds a message that is not for memberlist
	observer bool // it is an observer's
	close    sync.Once
}

func (t *Transport) outbound(conn net.Conn) *stream {
	s := &stream{Conn: conn, raw: conn, t: t, from: sender(conn.RemoteAddr())}
	_, _ = rand.Read(s.id[:]) // never fails, see its documentation
	return s
}

// receive reads the peer's message.
func (s *stream) receive() error {
	direction := reply
	if s.inbound {
		direction = request
		if _, err := io.ReadFull(s.Conn, s.id[:]); err != nil {
			return err
		}
	}
	held := false
	defer func() {
		if held {
			<-s.t.large
		}
	}()
	b, err := s.t.cfg.Sealer.readMessage(s.Conn, direction, s.id, guard.MaxMessage, func() error {
		if !s.inbound {
			return nil // we asked
		}
		timeout := time.NewTimer(StreamTimeout)
		defer timeout.Stop()
		select {
		case s.t.large <- struct{}{}:
			held = true
			return nil
		case <-timeout.C:
			return errTooMany
		case <-s.t.ctx.Done():
			return net.ErrClosed
		}
	})
	if err != nil {
		return err
	}
	if b, err = s.t.cfg.Guard.Stream(b, s.inbound, s.from); err != nil {
		return fmt.Errorf("%w from %v: %w", errGuard, s.from, err)
	}
	s.in, s.sync = bytes.NewReader(b), guard.IsDigestRequest(b) || guard.IsPush(b)
	return nil
}

func (s *stream) Read(b []byte) (int, error) {
	if s.in == nil {
		if err := s.receive(); err != nil {
			s.t.refuseReply(s.from, err)
			return 0, err
		}
	}
	return s.in.Read(b)
}

func (s *stream) Write(b []byte) (int, error) {
	direction := request
	if s.inbound {
		direction = reply
	}
	if err := s.t.cfg.Sealer.writeMessage(s.Conn, b, direction, s.id); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (s *stream) Close() error {
	err := s.Conn.Close()
	s.close.Do(func() { s.t.release(s) })
	return err
}
