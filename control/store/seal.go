package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// SealKeySize is the length of the key of [Seal]: AES-256.
const SealKeySize = 32

// Seal encrypts a secret that replicas share through the store, by AES-256-GCM under a key that is not in the
// store. It can be opened under the same kind and key of a record alone. One key seals at most 2³² values.
func Seal(sealKey []byte, kind, key string, secret []byte) ([]byte, error) {
	gcm, err := sealer(sealKey)
	if err != nil {
		return nil, err
	}
	return gcm.Seal(nil, nil, secret, []byte(kind+"/"+key)), nil //nolint:gosec // the nonce is random, by NewGCMWithRandomNonce
}

// Unseal opens what Seal returned.
func Unseal(sealKey []byte, kind, key string, sealed []byte) ([]byte, error) {
	gcm, err := sealer(sealKey)
	if err != nil {
		return nil, err
	}
	secret, err := gcm.Open(nil, nil, sealed, []byte(kind+"/"+key))
	if err != nil {
		return nil, errors.New("store: a sealed record of kind " + kind + " can't be opened: it is damaged, or sealed with the key of another mesh")
	}
	return secret, nil
}

func sealer(key []byte) (cipher.AEAD, error) {
	if len(key) != SealKeySize {
		return nil, fmt.Errorf("store: a key of %d bytes seals, want %d", len(key), SealKeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// NewSealKey makes a key.
func NewSealKey() []byte {
	key := make([]byte, SealKeySize)
	_, _ = rand.Read(key) // never fails
	return key
}
