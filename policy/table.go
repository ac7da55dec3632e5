package policy

import "hash/maphash"

// A table is a map by name that is made once and then only read. It takes the name's hash from the caller, who has it for
// several tables, and finds the value in one place of memory.
type table[V any] struct {
	slots []slot[V] // a power of two, at least one of them free; the values in use may be pointed to
}

type slot[V any] struct {
	hash  uint64 // 0 is free
	name  string
	value V
}

// hashName returns what tables of the seed want, never 0.
func hashName(seed maphash.Seed, name string) uint64 { return maphash.String(seed, name) | 1<<63 }

// newTable has room for n names.
func newTable[V any](n int) table[V] {
	size := 1
	for size*3 < n*4+1 {
		size *= 2
	}
	return table[V]{make([]slot[V], size)}
}

// put returns where the value for a name is, and makes it.
func (t *table[V]) put(hash uint64, name string) *V {
	s := t.slot(hash, name)
	if s.hash == 0 {
		s.hash, s.name = hash, name
	}
	return &s.value
}

// get returns the value for a name, nil for none.
func (t *table[V]) get(hash uint64, name string) *V {
	if len(t.slots) == 0 {
		return nil
	}
	if s := t.slot(hash, name); s.hash != 0 {
		return &s.value
	}
	return nil
}

// slot returns the one of a name, or the free one where it would be.
func (t *table[V]) slot(hash uint64, name string) *slot[V] {
	mask := uint64(len(t.slots)) - 1
	for i := hash; ; i++ {
		s := &t.slots[i&mask]
		if s.hash == 0 || s.hash == hash && s.name == name {
			return s
		}
	}
}
