package guard

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"net/netip"

	"github.com/intramesh/mesh/internal/pace"
)

// Two members find out what one of them has not heard by comparing digests: members are put into buckets by the hash of their
// name, and a bucket's digest is the sum of the hashes of who lives in it, each with its incarnation. Only buckets that
// differ are exchanged. The dead are in no digest, since each member forgets them in its own time.
const (
	buckets    = pace.Buckets
	digestSize = pace.DigestSize
	mapSize    = buckets / 8
)

// Types of messages that memberlist does not know.
const (
	digestReq  = 0xd0 // digests of all buckets
	digestResp = 0xd1 // a bit for each bucket that differs, and then a pushPull of these
	push       = 0xd2 // a pushPull that wants no answer but pushed
	pushed     = 0xd3
)

// A Digest sums up a state, by bucket.
type Digest [buckets]uint64

// entry is one member of a state.
type entry struct {
	raw    []byte
	name   string
	bucket byte
	fields fields
}

// entries takes a pushPull apart. It is for messages that passed the guard, or are memberlist's own.
func entries(message []byte) ([]entry, error) {
	if !IsState(message) {
		return nil, errMalformed
	}
	r := reader{b: message[1:]}
	head, ok := read(&r)
	if !ok || head.Nodes > MaxMembers {
		return nil, errMalformed
	}
	var all []entry
	for range head.Nodes {
		before := r.b
		f, ok := read(&r)
		if !ok {
			return nil, errMalformed
		}
		all = append(all, entry{before[:len(before)-len(r.b)], f.Node, byte(hash(f.Node, 0) % buckets), f})
	}
	return all, nil
}

func hash(name string, incarnation uint32) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(binary.BigEndian.AppendUint32([]byte(name), incarnation)) // never fails
	return h.Sum64()
}

func digest(all []entry) (d Digest) {
	for _, e := range all {
		if e.fields.State <= 1 { // alive or suspect
			d[e.bucket] += hash(e.name, e.fields.Incarnation)
		}
	}
	return d
}

// DigestRequest asks another member for what differs from our state.
func DigestRequest(state []byte) ([]byte, error) {
	all, err := entries(state)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 1, 1+buckets*digestSize)
	b[0] = digestReq
	for _, sum := range digest(all) {
		b = binary.BigEndian.AppendUint64(b, sum)
	}
	return b, nil
}

// IsDigestRequest and IsPush tell what a stream's request is.
func IsDigestRequest(b []byte) bool { return len(b) > 0 && b[0] == digestReq }

// IsPush reports whether a stream's request is a push.
func IsPush(b []byte) bool { return len(b) > 0 && b[0] == push }

// AnswerDigest returns the members of our state in those buckets that differ from the request's.
func AnswerDigest(request, state []byte) ([]byte, error) {
	if len(request) != 1+buckets*digestSize {
		return nil, errMalformed
	}
	all, err := entries(state)
	if err != nil {
		return nil, err
	}
	own := digest(all)
	b := make([]byte, 1+mapSize)
	b[0] = digestResp
	for i := range buckets {
		if own[i] != binary.BigEndian.Uint64(request[1+i*digestSize:]) {
			b[1+i/8] |= 1 << (i % 8)
		}
	}
	return append(b, subset(all, func(e entry) bool { return differs(b, e.bucket) })...), nil
}

func differs(answer []byte, bucket byte) bool { return answer[1+bucket/8]>>(bucket%8)&1 == 1 }

// subset returns a pushPull of some members of a state.
func subset(all []entry, want func(entry) bool) []byte {
	var n uint32
	var states []byte
	for _, e := range all {
		if want(e) {
			states = append(states, e.raw...)
			n++
		}
	}
	w := writer{b: []byte{pushPull}}
	w.header(n, false)
	return append(w.b, states...)
}

// ReadDigest returns what an answer holds, as a message for memberlist, and what the one who answered lacks, nil if
// nothing: a message to send. The answer has passed the guard.
func ReadDigest(answer, state []byte) (theirs, lacks []byte, err error) {
	if len(answer) < 1+mapSize || answer[0] != digestResp {
		return nil, nil, errMalformed
	}
	theirs = answer[1+mapSize:]
	told, err := entries(theirs)
	if err != nil {
		return nil, nil, err
	}
	ours, err := entries(state)
	if err != nil {
		return nil, nil, err
	}
	has := make(map[string]fields, len(told))
	for _, e := range told {
		has[e.name] = e.fields
	}
	n := 0
	message := subset(ours, func(e entry) bool {
		f, ok := has[e.name]
		news := differs(answer, e.bucket) && (!ok && e.fields.State <= 1 || ok && (f.Incarnation < e.fields.Incarnation || f.State < e.fields.State))
		if news {
			n++
		}
		return news
	})
	if n > 0 {
		lacks = append([]byte{push}, message...)
	}
	return theirs, lacks, nil
}

// Pushed returns what a push holds, as a message for memberlist. It has passed the guard.
func Pushed(b []byte) []byte { return b[1:] }

// AnswerPush is the answer to a push.
func AnswerPush() []byte { return []byte{pushed} }

var errUnexpected = errors.New("message of digests in the wrong direction")

// sync checks a message of those above; ok is false for any other.
func (g *Guard) sync(b []byte, request bool, from netip.AddrPort) (message []byte, ok bool, err error) {
	prefix := 0
	switch b[0] {
	case digestReq:
		if len(b) != 1+buckets*digestSize {
			err = errMalformed
		}
	case pushed:
		if len(b) != 1 {
			err = errMalformed
		}
	case digestResp:
		prefix = 1 + mapSize
	case push:
		prefix = 1
	default:
		return nil, false, nil
	}
	if request != (b[0] == digestReq || b[0] == push) {
		err = errUnexpected
	}
	if err != nil || prefix == 0 {
		return b, true, err
	}
	if len(b) <= prefix || b[prefix] != pushPull {
		return nil, true, errMalformed
	}
	states, err := g.states(b[prefix+1:], from)
	return append(b[:prefix:prefix], states...), true, err
}
