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
	frameData  frameType = iota // payload: bytes of the stream
	frameEnd                    // no payload: the sender will send no more data
	frameReset                  // payload: JSON of a DeniedError; the connection is over in both directions
	frameOpen                   // client to server; payload: the first bytes of the next stream
	frameClose                  // no payload: the sender will neither send nor read any more of the stream; a server says it once both sides have ended it
	frameBye                    // server to client, no payload: no more streams; those on the way will be served
	framePing                   // no payload: between streams; the server sends it back
	frameBrief                  // as frameOpen; the next frameOpen or frameBrief may end this stream
)

var errProtocol = errors.New("the peer broke the mesh/2 framing")

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

func parseHeader(b [frameHeader]byte) (frame, error) {
	f := frame{frameType(b[0]), b[1], int(binary.BigEndian.Uint16(b[2:]))}
	limit := 0
	switch f.frameType {
	case frameData, frameOpen, frameBrief:
		limit = maxPayload
	case frameReset:
		limit = maxResetJSON
	case frameEnd, frameClose, frameBye, framePing:
	default:
		limit = -1
	}
	if f.n > limit {
		return frame{}, fmt.Errorf("%w (header %x)", errProtocol, b)
	}
	return f, nil
}
