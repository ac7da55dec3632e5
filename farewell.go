package mesh

import (
	"sync"
	"time"
)

// farewells tell peers why their raw connections are cut, a few at a time so that the rest of the program goes on. The zero value
// is ready.
type farewells struct {
	mu      sync.Mutex
	waiting []farewell // the oldest first
	workers int
}

type farewell struct {
	link *link
	why  *DeniedError
	late *time.Timer // closes the connection without a word when others take too long
}

const maxFarewells = 4

// add has the peer of a link that has failed told soon.
func (f *farewells) add(m *Mesh, l *link, why *DeniedError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	late := time.AfterFunc(resetWait, func() { _ = l.net.Close() })
	f.waiting = append(f.waiting, farewell{l, why, late})
	if f.workers < maxFarewells {
		f.workers++
		m.spawn(func() { f.work(m) }) // when the mesh is closing, that closes the connection
	}
}

func (f *farewells) work(m *Mesh) {
	for {
		next, ok := f.next()
		if !ok {
			return
		}
		if next.late.Stop() {
			next.link.tell(next.why)
			m.spawn(next.link.finish) // it takes as long as the peer likes, a second at most
		}
	}
}

func (f *farewells) next() (farewell, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == 0 {
		f.workers--
		return farewell{}, false
	}
	next := f.waiting[0]
	f.waiting[0] = farewell{}
	f.waiting = f.waiting[1:]
	return next, true
}
