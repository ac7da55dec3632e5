package jwt

import (
	"crypto/sha256"

	"github.com/intramesh/mesh/policy"
)

// entry is a token that held.
type entry struct {
	token  *policy.Token
	issuer [sha256.Size]byte
	keys   *keySet
	size   int
}

// cache remembers what was used lately in two generations, by the hash of a token: when the young one is full it
// becomes the old one, and what was in that is forgotten unless it is used again.
type cache struct {
	young, old map[[sha256.Size]byte]entry
	size       int
}

// maxTokens and maxTokenBytes bound a generation.
const (
	maxTokens     = 4096
	maxTokenBytes = 4 << 20
)

func (c *cache) get(sum [sha256.Size]byte) (entry, bool) {
	if e, ok := c.young[sum]; ok {
		return e, true
	}
	e, ok := c.old[sum]
	if ok {
		c.add(sum, e)
	}
	return e, ok
}

func (c *cache) add(sum [sha256.Size]byte, e entry) {
	if c.young == nil || len(c.young) >= maxTokens || c.size+e.size > maxTokenBytes {
		c.young, c.old, c.size = make(map[[sha256.Size]byte]entry), c.young, 0
	}
	c.size += e.size - c.young[sum].size
	c.young[sum] = e
}
