// Package observe is what an observer and the members that it observes through say to each other, in frames of
//
//	length uint16 | kind | flags | length of the name | name | what the kind has
//
// on a TLS stream. The observer says which services it wants; for each it is told a whole set, and from then on what changes.
package observe

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"net/netip"
)

// A Kind says what a frame is.
type Kind byte

// What an observer says.
const (
	// Want asks for the service Name. With a Digest of what is known, only the buckets that differ are told.
	Want Kind = iota + 1
	// Drop takes a Want back.
	Drop
	// Beat says that the observer lives.
	Beat
)

// What a member says.
const (
	// Hello opens the stream, and says that the member lives: its pool has Members that live. Full asks to go elsewhere.
	Hello Kind = iota + 16
	// Set begins the answer about the service Name: of the buckets in Bits, Records tell all, of the others those who are Dead.
	Set
	// Record is the record Meta of the member Name.
	Record
	// Gone says that the member Name is known no more.
	Gone
	// End ends the answer about the service Name.
	End
	// Peer is the record of some member, to observe through or to ask for rules.
	Peer
)

// MaxFrame bounds a frame, in bytes.
const MaxFrame = 1200

const (
	maxName = 253 // of a service; members' are shorter
	maxMeta = 512
)

// A Frame is any of the kinds, with the fields that it has.
type Frame struct {
	Kind    Kind
	Name    string
	Addr    netip.AddrPort
	Meta    []byte // when it was read, part of the buffer
	Dead    bool
	Full    bool
	Digest  *Digest
	Bits    uint64
	Members uint32
}

const (
	flagDead = 1 << iota
	flagFull
	flagDigest
	flagIPv6
)

// Append appends the frame.
func (f Frame) Append(b []byte) []byte {
	start, flags := len(b), byte(0)
	for i, on := range [...]bool{f.Dead, f.Full, f.Digest != nil, f.Addr.Addr().Is6()} {
		if on {
			flags |= 1 << i
		}
	}
	b = append(b, 0, 0, byte(f.Kind), flags, byte(len(f.Name))) //nolint:gosec // names are at most maxName long
	b = append(b, f.Name...)
	switch f.Kind {
	case Want:
		if f.Digest != nil {
			for _, sum := range f.Digest {
				b = binary.BigEndian.AppendUint64(b, sum)
			}
		}
	case Hello:
		b = binary.BigEndian.AppendUint32(b, f.Members)
	case Set:
		b = binary.BigEndian.AppendUint64(b, f.Bits)
	case Record, Peer:
		b = append(b, f.Addr.Addr().AsSlice()...)
		b = binary.BigEndian.AppendUint16(b, f.Addr.Port())
		b = append(b, f.Meta...)
	}
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start-2)) //nolint:gosec // at most MaxFrame
	return b
}

var errMalformed = errors.New("gossip: malformed frame")

// Read reads one frame into buf, which has MaxFrame bytes. What follows the parts of a frame that are known, and frames of unknown
// kinds, are for the caller to skip.
func Read(r io.Reader, buf []byte) (Frame, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return Frame{}, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if n < 3 || n > len(buf) {
		return Frame{}, errMalformed
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return Frame{}, err
	}
	return parse(buf[:n])
}

func parse(b []byte) (f Frame, err error) {
	kind, flags, n := Kind(b[0]), b[1], int(b[2])
	if b = b[3:]; n > maxName || n > len(b) {
		return f, errMalformed
	}
	for _, c := range b[:n] {
		if c <= ' ' || c > '~' {
			return f, errMalformed
		}
	}
	f = Frame{Kind: kind, Name: string(b[:n]), Dead: flags&flagDead != 0, Full: flags&flagFull != 0}
	b = b[n:]
	need := 0
	switch kind {
	case Want:
		if flags&flagDigest != 0 {
			need = 8 * buckets
		}
	case Hello:
		need = 4
	case Set:
		need = 8
	case Record, Peer:
		if need = 6; flags&flagIPv6 != 0 {
			need = 18
		}
	}
	named := kind != Beat && kind != Hello
	if len(b) < need || named == (n == 0) {
		return f, errMalformed
	}
	switch {
	case kind == Want && need > 0:
		f.Digest = new(Digest)
		for i := range f.Digest {
			f.Digest[i] = binary.BigEndian.Uint64(b[8*i:])
		}
	case kind == Hello:
		f.Members = binary.BigEndian.Uint32(b)
	case kind == Set:
		f.Bits = binary.BigEndian.Uint64(b)
	case kind == Record || kind == Peer:
		ip, _ := netip.AddrFromSlice(b[:need-2]) // the size is right
		f.Addr = netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(b[need-2:]))
		if f.Meta = b[need:]; len(f.Meta) > maxMeta || f.Addr.Port() == 0 || ip.IsUnspecified() || ip.IsMulticast() {
			return f, errMalformed
		}
	}
	return f, nil
}

// buckets is how many parts of a service are compared. [Frame.Bits] has a bit for each.
const buckets = 64

// A Digest sums up who announces a service, and what. Members are put into buckets by name; each has the sum of its members' hashes.
type Digest [buckets]uint64

// Bucket returns the bucket of a member.
func Bucket(name string) int { return int(hash(name, nil, nil) % buckets) }

// Add takes a member in.
func (d *Digest) Add(name string, addr netip.AddrPort, meta []byte) {
	at, _ := addr.MarshalBinary() // never fails
	d[Bucket(name)] += hash(name, at, meta)
}

// Differing returns a bit for each bucket that differs; all of them when o is nil.
func (d *Digest) Differing(o *Digest) (bits uint64) {
	for i := range d {
		if o == nil || d[i] != o[i] {
			bits |= 1 << i
		}
	}
	return bits
}

func hash(name string, addr, meta []byte) uint64 {
	h := fnv.New64a()
	for _, part := range [...][]byte{[]byte(name), {0}, addr, {0}, meta} {
		_, _ = h.Write(part) // never fails
	}
	return h.Sum64()
}
