package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The framing of "mesh/1", spoken by two of our own nodes on raw connections, inside TLS. It carries
// what TLS alone cannot say: an end of stream for one direction that a network failure can't
// forge, and the reason why a connection is refused or cut.
//
//	byte 0    type
//	byte 1    0
//	bytes 2–3 length of the payload, big endian
//
// One frame is one TLS record is one write: a payload is at most 16,380 bytes.
const (
	alpnMesh  = "mesh/1"
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
)

var errProtocol = errors.New("the peer broke the mesh/1 framing")

func putHeader(b []byte, t frameType, n int) {
	b[0], b[1] = byte(t), 0
	binary.BigEndian.PutUint16(b[2:], uint16(n)) //nolint:gosec // n ≤ maxPayload
}

func parseHeader(b [frameHeader]byte) (frameType, int, error) {
	t, n := frameType(b[0]), int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case b[1] != 0, n > maxPayload,
		t == frameEnd && n != 0,
		t == frameReset && n > maxResetJSON,
		t > frameReset:
		return 0, 0, fmt.Errorf("%w (header %x)", errProtocol, b)
	}
	return t, n, nil
}
