package gossip

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// MaxKeys bounds how many keys a pool has at one time.
const MaxKeys = 8

// KeyID names a key. It tells nothing about it.
func KeyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("mesh gossip key id "), key...))
	return hex.EncodeToString(sum[:4])
}

// SetKeys replaces [Config.Keys] while the member runs. Nothing is lost if all members get a new key as the last one, then all as the
// first one, and only then no longer the old one.
func (m *Member) SetKeys(keys [][]byte) error {
	if len(keys) > MaxKeys {
		return fmt.Errorf("gossip: %d keys, of at most %d", len(keys), MaxKeys)
	}
	if err := m.sealer.SetKeys(keys); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}
