package transport

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
)

// KeySize is the size of a pool key, in bytes: AES-256.
const KeySize = 32

const (
	nonceSize = 12
	tagSize   = 16
	// Overhead is how much longer a sealed message is.
	Overhead = nonceSize + tagSize
)

// ErrSealed is returned for what none of the keys opens: it was made with another key or label,
// for another purpose, or was changed on the way.
var ErrSealed = errors.New("gossip: message does not open with the pool's keys and label")

// A Sealer encrypts with AES-256-GCM (NIST SP 800-38D). It is safe for concurrent use.
//
// Nonces start at 96 random bits and count up in the lower 64, so that all the processes of a
// pool may share a key: two of them use one nonce only if both starts lie within reach
// of each other, which for 2³² messages each has a probability of 2⁻⁶³.
type Sealer struct {
	aeads  atomic.Pointer[[]cipher.AEAD] // the first one seals
	label  string
	prefix [4]byte
	next   atomic.Uint64
}

// NewSealer returns a sealer that encrypts with the first key and decrypts with all. What was
// sealed under one label opens only under the same.
func NewSealer(keys [][]byte, label string) (*Sealer, error) {
	s := &Sealer{label: label}
	if err := s.SetKeys(keys); err != nil {
		return nil, err
	}
	var start [nonceSize]byte
	_, _ = rand.Read(start[:]) // never fails, see its documentation
	copy(s.prefix[:], start[:])
	s.next.Store(binary.BigEndian.Uint64(start[4:]))
	return s, nil
}

// SetKeys replaces the keys. What is being sealed or opened may still use the old ones.
func (s *Sealer) SetKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("no key")
	}
	var aeads []cipher.AEAD
	for i, key := range keys {
		if len(key) != KeySize {
			return fmt.Errorf("key %d has %d bytes, want %d", i, len(key), KeySize)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return err
		}
		aeads = append(aeads, aead)
	}
	s.aeads.Store(&aeads)
	return nil
}

// Seal appends the sealed message to dst. Open wants the same purpose.
func (s *Sealer) Seal(dst, message []byte, purpose string) []byte {
	dst = append(dst, s.prefix[:]...)
	dst = binary.BigEndian.AppendUint64(dst, s.next.Add(1))
	return (*s.aeads.Load())[0].Seal(dst, dst[len(dst)-nonceSize:], message, s.data(purpose))
}

// Open returns the message in memory of its own.
func (s *Sealer) Open(sealed []byte, purpose string) ([]byte, error) {
	if len(sealed) < Overhead {
		return nil, ErrSealed
	}
	data := s.data(purpose)
	for _, aead := range *s.aeads.Load() {
		if b, err := aead.Open(nil, sealed[:nonceSize], sealed[nonceSize:], data); err == nil {
			return b, nil
		}
	}
	return nil, ErrSealed
}

func (s *Sealer) data(purpose string) []byte {
	return []byte(purpose + "\x00" + s.label)
}
