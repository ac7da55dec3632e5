package store

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"

	"go.etcd.io/bbolt"
)

// A sum is over a set of records: the exclusive or of their SHA-256 digests, so that a commit
// updates it at the cost of what it changes. It finds damage; it would not stop somebody who makes up records.
type sum [sha256.Size]byte

// flip adds a record that is not in the sum, and removes one that is.
func (s *sum) flip(key, value []byte) {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(key))))
	h.Write(key)
	h.Write(value)
	subtle.XORBytes(s[:], s[:], h.Sum(nil))
}

// digest binds the sum to the revision.
func (s *sum) digest(revision uint64) []byte {
	d := sha256.Sum256(append(binary.BigEndian.AppendUint64([]byte(format), revision), s[:]...))
	return d[:]
}

// state reads revision and sum.
func state(meta *bbolt.Bucket) (revision uint64, s sum, err error) {
	v, raw := meta.Get([]byte(revisionKey)), meta.Get([]byte(sumKey))
	if len(v) != 8 || len(raw) != len(s) {
		return 0, s, errors.New("it has no revision")
	}
	revision = binary.BigEndian.Uint64(v)
	copy(s[:], raw)
	if !bytes.Equal(s.digest(revision), meta.Get([]byte(digestKey))) {
		return 0, s, errors.New("its digest does not match")
	}
	return revision, s, nil
}

func putState(meta *bbolt.Bucket, revision uint64, s sum) error {
	return errors.Join(
		meta.Put([]byte(revisionKey), binary.BigEndian.AppendUint64(nil, revision)),
		meta.Put([]byte(sumKey), s[:]),
		meta.Put([]byte(digestKey), s.digest(revision)),
	)
}
