package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// pinTime is how long a name stays bound to its address after it was last heard of.
const pinTime = 10 * time.Minute

// pins bind names to addresses. Names are never used again, so an address never changes;
// memberlist would let one be moved after a forged farewell. There are thousands, so of either only a hash is kept, under a
// seed that nobody else knows: who wants to have another address taken for a member's has a chance of 2⁻⁴⁰ with each try.
type pins struct {
	seed  maphash.Seed
	start time.Time

	mu    sync.Mutex
	byKey map[uint64]pin // by the hash of the name
	swept time.Time
}

// A pin is 40 bits of the hash of an address, and the minute that it was last heard in, counted from the start.
type pin uint64

const minuteBits = 24 // for 31 years

func newPins() *pins {
	now := time.Now()
	return &pins{seed: maphash.MakeSeed(), start: now, byKey: make(map[uint64]pin), swept: now}
}

func (p *pins) pinOf(addr netip.AddrPort, now time.Time) pin {
	ip := addr.Addr().As16()
	hash := maphash.Bytes(p.seed, binary.BigEndian.AppendUint16(ip[:], addr.Port()))
	return pin(hash<<minuteBits | uint64(now.Sub(p.start)/time.Minute)&(1<<minuteBits-1)) //nolint:gosec // not negative
}

func (p pin) sameAddr(q pin) bool { return p>>minuteBits == q>>minuteBits }
func (p pin) minute() int64       { return int64(p & (1<<minuteBits - 1)) }

// at reports whether name is pinned to addr.
func (p *pins) at(name string, addr netip.AddrPort) bool {
	key, want := maphash.String(p.seed, name), p.pinOf(addr, p.start)
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.byKey[key]
	return ok && known.sameAddr(want)
}

// pin binds name to addr, or returns an error if it has another one or there are too many.
func (p *pins) pin(name string, addr netip.AddrPort, now time.Time) error {
	key, heard := maphash.String(p.seed, name), p.pinOf(addr, now)
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.byKey[key]
	if ok && !known.sameAddr(heard) {
		return errMoved(name, addr)
	}
	if !ok && len(p.byKey) >= MaxMembers || now.Sub(p.swept) > pinTime {
		for key, old := range p.byKey {
			if heard.minute()-old.minute() > int64(pinTime/time.Minute) {
				delete(p.byKey, key)
			}
		}
		p.swept = now
	}
	if !ok && len(p.byKey) >= MaxMembers {
		return errors.New("more members than the pool may have")
	}
	p.byKey[key] = heard
	return nil
}

func errMoved(name string, to netip.AddrPort) error {
	return fmt.Errorf("%s did not move to %v", name, to)
}
