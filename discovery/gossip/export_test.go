package gossip

import "slices"

// Announced returns the record that the member sends, signed.
func (m *Member) Announced() []byte {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return slices.Clone(m.pool.encoded)
}
