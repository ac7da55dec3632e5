package guard

import "encoding/binary"

// A reader takes MessagePack apart (the format's specification of 2013), as far as
// memberlist uses it: maps of strings to scalars. After the first failure it returns zero values and
// bad is set. It allocates nothing that b does not hold.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

// number reads n bytes, big-endian.
func (r *reader) number(n uint64) uint64 {
	var v uint64
	for _, c := range r.take(n) {
		v = v<<8 | uint64(c)
	}
	return v
}

// mapLen reads the head of a map of less than 16 entries: no message has more.
func (r *reader) mapLen() int {
	head := r.number(1)
	if head>>4 != 0x8 {
		r.bad = true
		return 0
	}
	return int(head & 0xf)
}

// raw reads a string, of bytes or of text, or nil.
func (r *reader) raw() []byte {
	switch head := r.number(1); {
	case head>>5 == 0b101:
		return r.take(head & 0x1f)
	case head == 0xc0:
		return nil
	case head == 0xd9 || head == 0xc4:
		return r.take(r.number(1))
	case head == 0xda || head == 0xc5:
		return r.take(r.number(2))
	case head == 0xdb || head == 0xc6:
		return r.take(r.number(4))
	}
	r.bad = true
	return nil
}

// uint reads an integer from 0 to most.
func (r *reader) uint(most uint64) uint64 {
	head := r.number(1)
	v := head
	switch {
	case head < 0x80:
	case head >= 0xcc && head <= 0xcf: // unsigned
		v = r.number(1 << (head - 0xcc))
	case head >= 0xd0 && head <= 0xd3: // signed
		n := uint64(1) << (head - 0xd0)
		if v = r.number(n); v>>(8*n-1) != 0 {
			r.bad = true // negative
		}
	default:
		r.bad = true
	}
	if r.bad || v > most {
		r.bad = true
		return 0
	}
	return v
}

func (r *reader) bool() bool {
	head := r.number(1)
	r.bad = r.bad || head != 0xc2 && head != 0xc3
	return head == 0xc3
}

// skip reads a scalar of no interest.
func (r *reader) skip() {
	if len(r.b) == 0 {
		r.bad = true
		return
	}
	switch head := r.b[0]; {
	case head < 0x80 || head >= 0xcc && head <= 0xd3:
		r.uint(1<<64 - 1)
	case head == 0xc2 || head == 0xc3:
		r.bool()
	default:
		r.raw()
	}
}

// A writer makes MessagePack as memberlist's own encoder does: all strings are "raw". Its methods are called from so many
// places that inlining them would add 10 KB to every program.
type writer struct{ b []byte }

func (w *writer) mapOf(n byte) { w.b = append(w.b, 0x80|n) }

//go:noinline
func (w *writer) raw(key string, v []byte) {
	w.key(key)
	switch {
	case len(v) < 32:
		w.b = append(w.b, 0xa0|byte(len(v))) //nolint:gosec // less than 32
	default: // no string of ours is longer than 64 KiB
		w.b = append(w.b, 0xda)
		w.b = binary.BigEndian.AppendUint16(w.b, uint16(len(v))) //nolint:gosec // see above
	}
	w.b = append(w.b, v...)
}

//go:noinline
func (w *writer) uint(key string, v uint32) {
	w.key(key)
	w.b = append(w.b, 0xce)
	w.b = binary.BigEndian.AppendUint32(w.b, v)
}

//go:noinline
func (w *writer) bool(key string, v bool) {
	w.key(key)
	head := byte(0xc2)
	if v {
		head = 0xc3
	}
	w.b = append(w.b, head)
}

//go:noinline
func (w *writer) key(key string) {
	w.b = append(w.b, 0xa0|byte(len(key))) //nolint:gosec // no key has more than 31 bytes
	w.b = append(w.b, key...)
}
