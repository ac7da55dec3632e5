// Package attack makes memberlist's messages for tests, honest ones and others.
package attack

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
)

// Types of messages.
const (
	Ping         = 0
	IndirectPing = 1
	AckResp      = 2
	Suspect      = 3
	Alive        = 4
	Dead         = 5
	PushPull     = 6
	Compound     = 7
	User         = 8
	Compressed   = 9
	Encrypted    = 10
	NackResp     = 11
	HasCRC       = 12
	ErrResp      = 13
	Labelled     = 244
)

// Versions returns what memberlist v0.7.0 announces as the protocol versions.
func Versions() []byte { return []byte{1, 5, 2, 0, 0, 0} }

// Map encodes pairs of a key and an int, string, []byte or bool.
func Map(pairs ...any) []byte {
	b := []byte{0x80 | byte(len(pairs)/2)} //nolint:gosec // tests have less than 16 pairs
	for _, v := range pairs {
		switch v := v.(type) {
		case string:
			b = raw(b, []byte(v))
		case []byte:
			b = raw(b, v)
		case int:
			b = binary.BigEndian.AppendUint32(append(b, 0xce), uint32(v)) //nolint:gosec // tests say what they mean
		case bool:
			b = append(b, map[bool]byte{false: 0xc2, true: 0xc3}[v])
		}
	}
	return b
}

func raw(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(len(v))), v...) //nolint:gosec // as above
}

// Message returns a message of this type that holds the pairs.
func Message(kind byte, pairs ...any) []byte { return append([]byte{kind}, Map(pairs...)...) }

// Pack makes one packet of several messages.
func Pack(parts ...[]byte) []byte {
	b := []byte{Compound, byte(len(parts))} //nolint:gosec // as above
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p))) //nolint:gosec // as above
	}
	return append(b, bytes.Join(parts, nil)...)
}

// Squeeze returns a compressed message of what.
func Squeeze(what []byte) []byte {
	var b bytes.Buffer
	w := lzw.NewWriter(&b, lzw.LSB, 8)
	_, _ = w.Write(what) // to memory
	_ = w.Close()
	return Message(Compressed, "Algo", 0, "Buf", b.Bytes())
}

// State returns a member's state for Exchange.
func State(name string, addr, meta, versions []byte, incarnation, state int) []byte {
	return Map("Name", name, "Addr", addr, "Port", 7946, "Meta", meta, "Incarnation", incarnation, "State", state, "Vsn", versions)
}

// Exchange returns a full exchange that claims a number of states.
func Exchange(states int, of ...[]byte) []byte {
	return append(Message(PushPull, "Nodes", states, "UserStateLen", 0, "Join", false), bytes.Join(of, nil)...)
}
