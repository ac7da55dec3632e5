package mesh

import (
	"maps"
	"sync"
)

// dialedConns holds the connections that this process dialed, for Close and for revocations. The zero value is ready.
type dialedConns struct {
	mu     sync.Mutex
	conns  map[*netConn]func(*DeniedError) // what ends it with a word to the peer; nil until the peer is known
	closed bool
}

func (d *dialedConns) add(n *netConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	if d.conns == nil {
		d.conns = make(map[*netConn]func(*DeniedError))
	}
	d.conns[n] = nil
	n.afterClose(func() { // not at once: nobody else knows n yet
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.conns, n)
	})
	return true
}

// established says that n.peer is known from now on.
func (d *dialedConns) established(n *netConn, end func(*DeniedError)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, open := d.conns[n]; open {
		d.conns[n] = end
	}
}

// all returns the connections whose peer is known.
func (d *dialedConns) all() map[*netConn]func(*DeniedError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := maps.Clone(d.conns)
	maps.DeleteFunc(all, func(_ *netConn, end func(*DeniedError)) bool { return end == nil })
	return all
}

func (d *dialedConns) close() {
	d.mu.Lock()
	d.closed = true
	conns := maps.Clone(d.conns)
	d.mu.Unlock()
	for n := range conns {
		_ = n.Close()
	}
}
