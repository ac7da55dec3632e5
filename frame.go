package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The framing of "mesh/2", spoken by two of our own nodes on raw connections, inside TLS. It carries
// what TLS alone cannot say: an end of stream for one direction that a network failure can't
// forge, the reason why a connection is refused or cut, and that a stream is over and another one begins.
//
//	byte 0    type
//	byte 1    epoch: the number of the stream, modulo 256
//	bytes 2–3 length of the payload, big endian
//
// One frame is one TLS record is one write: a payload is at most 16,380 bytes.
//
// A header would make two records of 16,384 bytes, and have whoever writes more copy it behind headers. So where 16,384 bytes are to be written, they
// may go without. The reader knows them by the first one: types are bytes with which neither text in UTF-8 begins nor much else, and data that begins with one
// of them is sent with a header. Bytes without one belong to the stream of the last frame with data in the same direction, and to stream 0 before there is any.
//
// A connection carries one stream after the other, never two at once. Stream 0 begins with the connection; the client begins
// the next one, with frameOpen, once it has closed the last one and has read the server's frameClose, which says that
// the server's application has closed it too: whatever that does with the end of a stream, and for how long, holds up no
// other stream. The server decides each stream like a new connection.
//
// A client that dials again and again saves both words: see brief.go.
const (
	alpnMesh  = "mesh/2"
	alpnHTTP2 = "h2"
	alpnHTTP1 = "http/1.1"

	frameHeader  = 4
	maxRecord    = 16 << 10 // RFC 8446, section 5.1
	maxPayload   = maxRecord - frameHeader
	maxResetJSON = 4 << 10
	// maxEmpty bounds how many empty data frames may follow each other: they cost the reader, not the sender.
	maxEmpty = 16
)

type frameType byte

const (
	frameData  frameType = iota + 0xF5 // payload: bytes of the stream
	frameEnd                           // no payload: the sender will send no more data
	frameReset                         // payload: JSON of a DeniedError; the connection is over in both directions
	frameOpen                          // client to server; payload: the first bytes of the next stream
	frameClose                         // no payload: the sender will neither send nor read any more of the stream; a server says it once both sides have ended it
	frameBye                           // server to client, no payload: no more streams; those on the way will be served
	framePing                          // no payload: between streams; the server sends it back
	frameBrief                         // as frameOpen; the next frameOpen or frameBrief may end this stream
)

var errProtocol = errors.New("the peer broke the mesh/2 framing")

// isHeader reports whether a header begins with b. Otherwise b is the first of maxRecord bytes of data.
func isHeader(b byte) bool { return frameType(b) >= frameData && frameType(b) <= frameBrief }

func putHeader(b []byte, t frameType, epoch byte, n int) {
	b[0], b[1] = byte(t), epoch
	binary.BigEndian.PutUint16(b[2:], uint16(n)) //nolint:gosec // n ≤ maxPayload
}

// A frame is the header of one.
type frame struct {
	frameType
	epoch byte
	n     int // length of the payload
}

// parseHeader takes the header that has been read, or the bytes that came in place of one.
func (l *link) parseHeader() (frame, error) {
	b := l.header
	l.nheader, l.lead = 0, 0
	if !isHeader(b[0]) {
		l.lead = frameHeader
		return frame{frameData, l.heard, maxRecord - frameHeader}, nil
	}
	f, limit := frame{frameType(b[0]), b[1], int(binary.BigEndian.Uint16(b[2:]))}, 0
	switch f.frameType {
	case frameData, frameOpen, frameBrief:
		if limit = maxPayload; f.n > 0 {
			l.heard = f.epoch
		}
	case frameReset:
		limit = maxResetJSON
	case frameEnd, frameClose, frameBye, framePing:
	}
	if f.n > limit {
		return frame{}, fmt.Errorf("%w (header %x)", errProtocol, b)
	}
	return f, nil
}
