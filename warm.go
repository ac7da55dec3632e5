package mesh

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxWarm bounds the links to one endpoint that wait to be used again, and warmTime how long they do.
	maxWarm  = 128
	warmTime = 60 * time.Second
	// linkTime bounds the age of a link that is used again.
	linkTime = time.Hour
	// probeAfter is how long a link is believed to be alive without asking.
	probeAfter = time.Second
	probeTime  = time.Second
	// ackTime is how long it may take until the server has closed a stream.
	ackTime = 5 * time.Second
	// ackWait is how long after a stream was closed a dial waits for that, rather than shaking hands anew.
	ackWait = 10 * time.Millisecond
	maxLag  = time.Millisecond
	// maxLooks bounds how many links a dial looks at in vain.
	maxLooks = 8
	// spareLinks is how many links more than are in use may wait for the server to close a stream, before a dial waits too.
	spareLinks = 4
	// sweepTime is how often links are looked at that nobody takes.
	sweepTime = time.Second
)

// warm holds the links that this process dialed and whose stream it has closed, for the next Dial.
type warm struct {
	mesh   *Mesh
	reused atomic.Uint64

	openers openers

	mu     sync.Mutex
	sets   map[warmKey]*warmSet
	armed  atomic.Bool // there will be a sweep
	timer  *time.Timer
	closed bool
}

// warmKey is what a link is good for: a service, whose certificate has answered at an address.
type warmKey struct {
	service string
	addr    netip.AddrPort
}

// A warmSet holds the links to one endpoint. It is their home.
type warmSet struct {
	warm *warm
	key  warmKey

	mu    sync.Mutex
	idle  []*link // by the time they were parked, oldest first
	total int     // those in use as well
	// lag is about how long it takes of late until the server has closed a stream: before that, looking is in vain.
	lag  time.Duration
	last time.Time // when a stream ended
}

// set returns the set of a new link, which counts until the link is closed.
func (w *warm) set(key warmKey, n *netConn) *warmSet {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sets[key]
	if s == nil {
		if w.sets == nil {
			w.sets = make(map[warmKey]*warmSet)
		}
		s = &warmSet{warm: w, key: key}
		w.sets[key] = s
	}
	s.mu.Lock()
	s.total++
	s.mu.Unlock()
	n.afterClose(func() { w.gone(s, n) })
	return s
}

func (w *warm) gone(s *warmSet, n *netConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = slices.DeleteFunc(s.idle, func(l *link) bool { return l.net == n })
	if s.total--; s.total == 0 {
		delete(w.sets, s.key)
	}
}

// take opens a stream on a link of an earlier dial, if one is fit for that. Otherwise it returns nil.
func (w *warm) take(ctx context.Context, key warmKey) *conn {
	w.mu.Lock()
	s := w.sets[key]
	w.mu.Unlock()
	for s != nil && ctx.Err() == nil {
		now := time.Now()
		l, dead := s.pick(now)
		closeLinks(dead)
		switch {
		case l == nil:
			return nil
		case !w.fit(l, now):
			l.shut()
			continue
		case l.owed: // it was looked at
		case !l.gone:
			if !l.awaitClosed(ctx, l.parked.Add(ackWait)) {
				s.putBack(l)
				return nil
			}
		case now.Sub(l.parked) > probeAfter && !l.probe(ctx):
			_ = l.net.Close()
			s.empty() // they are likely to be in the same state
			return nil
		}
		w.reused.Add(1)
		l.stale, l.owed = l.owed, false
		l.epoch++
		c := l.begin(false)
		w.openers.soon(l)
		return c
	}
	return nil
}

// fit reports whether the link may still be used, like a new one.
func (w *warm) fit(l *link, now time.Time) bool {
	if !w.mesh.current(l, now) {
		return false
	}
	if !w.mesh.unchecked(l) {
		return true
	}
	_, err := w.mesh.verify(l.net.peer.chain)
	return err == nil
}

// pick takes a link out of the set: the last one whose stream the server has closed, too. If there are many that only wait for
// that, it is one of them. It also returns those that turned out to be of no more use.
func (s *warmSet) pick(now time.Time) (l *link, dead []*link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, since := range [...]time.Duration{s.lag, 0} {
		looks := 0
		for i := len(s.idle) - 1; i >= 0 && looks < maxLooks; i-- {
			l := s.idle[i]
			age := now.Sub(l.parked)
			if age < since && !l.owed || l.owed && age > maxOwed {
				continue
			}
			alive, ready := l.lookIdle()
			if alive && !ready {
				looks++
				s.lag = min(max(s.lag, age*5/4), maxLag)
				continue
			}
			s.idle = slices.Delete(s.idle, i, i+1)
			if ready {
				if !l.owed {
					s.lag -= s.lag / 32
				}
				l.brief = now.Sub(s.last) < openWait
				return l, dead
			}
			dead = append(dead, l)
		}
	}
	if used := s.total - len(s.idle) - len(dead); len(s.idle) >= used+spareLinks {
		for i, l := range s.idle {
			if !l.gone && !l.owed && now.Sub(l.parked) < ackWait {
				s.idle = slices.Delete(s.idle, i, i+1)
				l.brief = false
				return l, dead
			}
		}
	}
	return nil, dead
}

func (s *warmSet) claim(l *link) bool {
	l.parked = time.Now()
	return !l.bye.Load() && l.parked.Sub(l.born) < linkTime && s.warm.mesh.current(l, l.parked)
}

func (s *warmSet) unclaim(*link) {}

// park takes a link whose stream this side has just closed.
func (s *warmSet) park(l *link) {
	s.mu.Lock()
	full, owed := len(s.idle) >= maxWarm, l.owed
	if !full {
		s.idle = append(s.idle, l)
		s.last = l.parked
	}
	s.mu.Unlock()
	switch {
	case full || !s.warm.arm():
		l.shut()
	case owed:
		s.warm.openers.soon(l)
	}
}

// pay says that the last stream of l is over, if that is owed and nobody uses l. It reports false if it is too early for that.
func (s *warmSet) pay(l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !slices.Contains(s.idle, l) || !l.owed:
		return true
	case time.Since(l.parked) < openWait/2:
		return false
	}
	l.owed = false
	_ = l.sayIdle(frameClose, l.epoch) // whoever takes it finds out
	return true
}

// shut closes a link that nobody else has.
func (l *link) shut() {
	if l.owed {
		_ = l.sayIdle(frameClose, l.epoch)
	}
	_ = l.net.Close()
}

// putBack returns a link that was picked too early.
func (s *warmSet) putBack(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, nil) // slices.Insert would be 3 KB of every program
	copy(s.idle[1:], s.idle)
	s.idle[0] = l
}

// empty closes the links that are not in use.
func (s *warmSet) empty() {
	s.mu.Lock()
	idle := s.idle
	s.idle = nil
	s.mu.Unlock()
	closeLinks(idle)
}

// sweep closes the links that are too old, or of no more use. It reports whether any are left.
func (s *warmSet) sweep(now time.Time) bool {
	s.mu.Lock()
	var dead []*link
	s.idle = slices.DeleteFunc(s.idle, func(l *link) bool {
		alive, ready := l.lookIdle()
		idle := now.Sub(l.parked)
		over := !alive || idle > warmTime || !ready && idle > ackTime
		if over {
			dead = append(dead, l)
		}
		return over
	})
	left := len(s.idle) > 0
	s.mu.Unlock()
	closeLinks(dead)
	return left
}

func closeLinks(links []*link) {
	for _, l := range links {
		l.shut()
	}
}

// arm sees to it that there will be a sweep. It reports false when the mesh is closing.
func (w *warm) arm() bool {
	if w.armed.Load() {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed && !w.armed.Load() {
		w.armed.Store(true)
		w.timer = time.AfterFunc(sweepTime, func() { w.mesh.attend(w.sweep) })
	}
	return !w.closed
}

func (w *warm) all() []*warmSet {
	w.mu.Lock()
	defer w.mu.Unlock()
	sets := make([]*warmSet, 0, len(w.sets))
	for _, s := range w.sets { // an iterator would be 400 bytes of every program
		sets = append(sets, s)
	}
	return sets
}

func (w *warm) sweep() {
	left := false
	for _, s := range w.all() {
		left = s.sweep(time.Now()) || left
	}
	w.armed.Store(false)
	if left || slices.ContainsFunc(w.all(), (*warmSet).waiting) { // what was parked until now has armed nothing
		w.arm()
	}
}

func (s *warmSet) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.idle) > 0
}

// empty closes all links that are not in use.
func (w *warm) empty() {
	for _, s := range w.all() {
		s.empty()
	}
}

// close ends reuse, with the mesh, which closes the links.
func (w *warm) close() {
	defer w.empty()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.armed.Store(false)
	if w.timer != nil {
		w.timer.Stop()
	}
}
