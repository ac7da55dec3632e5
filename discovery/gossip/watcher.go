package gossip

import (
	"crypto/tls"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/observe"
	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
)

const (
	// maxInterests bounds the services that an observer follows.
	maxInterests = 1024
	// asksPerSecond is how fast an observer may ask once it has asked for maxInterests services: an answer may be thousands of records.
	asksPerSecond = 10
	// maxPending bounds the members that an observer has still to be told of. One that is slower than that starts anew elsewhere.
	maxPending = 4096
	// tellGap is the least time between two lots of changes, tellBytes about how large a lot is, tellTimeout how long it may take.
	tellGap     = 100 * time.Millisecond
	tellBytes   = 32 << 10
	tellTimeout = 5 * time.Second
	// beatGap is the time between two signs of life of a member, askGap that of an observer.
	beatGap = time.Second
	askGap  = 10 * time.Second
	// doubtGap is the time between two looks at the certificate of the other end: it may expire, or be revoked.
	doubtGap = 30 * time.Second
	// peerGap is the time between two lots of toldPeers other members to turn to.
	peerGap   = time.Minute
	toldPeers = 8
)

// A watcher is an observer that a member serves.
type watcher struct {
	p     *pool
	conn  *tls.Conn
	wake  chan struct{} // there are changes, or it has ended; capacity 1
	asks  chan struct{} // there are wishes; capacity 1
	slack int           // what may be asked, used by the reader alone
	since time.Time     // of slack

	// Guarded by p.mu.
	wants   map[string]bool
	asked   []wish
	answer  string            // the service of left, "" when nothing is being answered
	left    []string          // members to tell of to end the answer
	pending map[string][]byte // members to tell of, and the last words of those who left
	ended   bool
}

// A wish is a service that an observer wants, and what it knows of it.
type wish struct {
	service string
	knows   *observe.Digest
}

// serveObserver tells an observer what it wants to know until the stream ends.
func (p *pool) serveObserver(conn *tls.Conn, tooMany bool) {
	w := &watcher{
		p: p, conn: conn, wake: make(chan struct{}, 1), asks: make(chan struct{}, 1), slack: maxInterests + askSpare, since: time.Now(),
		wants: make(map[string]bool), pending: make(map[string][]byte),
	}
	if tooMany {
		_ = w.write(w.peers(observe.Frame{Kind: observe.Hello, Full: true}.Append(nil)), time.Second) // it looks elsewhere anyhow
		return
	}
	p.mu.Lock()
	p.observers++
	p.mu.Unlock()
	var writer sync.WaitGroup
	writer.Go(func() {
		if err := w.speak(); err != nil {
			p.log.Debug("gossip: observer lost", "from", conn.RemoteAddr().String(), "error", err)
		}
		_ = conn.Close() // ends the reader
	})
	err := w.listen()
	p.mu.Lock()
	w.ended = true
	p.observers--
	for service := range w.wants {
		p.unwatch(w, service)
	}
	p.mu.Unlock()
	poke(w.wake)
	_ = conn.Close() // ends the writer
	writer.Wait()
	if errors.Is(err, errAsksTooMuch) {
		if n := p.refused.Add(tally.Message); n > 0 {
			p.log.Warn("gossip: refused an observer", "from", conn.RemoteAddr().String(), "error", err, "refused", n)
		}
	}
}

var errAsksTooMuch = errors.New("it asks for more than an observer may")

// askSpare is how many frames beyond one for each interest an observer may send at once.
const askSpare = 64

// listen takes in what the observer asks for.
func (w *watcher) listen() error {
	buf := make([]byte, observe.MaxFrame)
	for {
		if err := w.conn.SetReadDeadline(time.Now().Add(3 * askGap)); err != nil {
			return err
		}
		f, err := observe.Read(w.conn, buf)
		if err != nil {
			return err
		}
		if more := int(time.Since(w.since) / (time.Second / asksPerSecond)); more > 0 {
			w.slack, w.since = min(w.slack+more, maxInterests+askSpare), time.Now()
		}
		if w.slack--; w.slack < 0 || !w.take(f) {
			return errAsksTooMuch
		}
	}
}

// take reports whether the observer may ask that.
func (w *watcher) take(f observe.Frame) bool {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	switch f.Kind {
	case observe.Want:
		if !w.wants[f.Name] {
			if len(w.wants) == maxInterests {
				return false
			}
			w.wants[f.Name] = true
			w.p.watch(w, f.Name)
			w.asked = append(w.asked, wish{f.Name, f.Digest})
			poke(w.asks)
		}
	case observe.Drop:
		delete(w.wants, f.Name)
		w.p.unwatch(w, f.Name)
	}
	return true // later versions may say more
}

// speak writes what there is to say until the stream ends.
func (w *watcher) speak() error {
	beat := time.NewTicker(beatGap)
	defer beat.Stop()
	var peersAt, checkedAt time.Time
	checkedAt = time.Now() // by the handshake
	for {
		now := time.Now()
		if now.Sub(checkedAt) >= doubtGap {
			if err := w.p.doubt(w.conn); err != nil {
				return err
			}
			checkedAt = now
		}
		b := observe.Frame{Kind: observe.Hello, Members: uint32(w.p.size())}.Append(nil) //nolint:gosec // at most guard.MaxMembers
		if now.Sub(peersAt) >= peerGap {
			b, peersAt = w.peers(b), now
		}
		for more := true; more; {
			if err := w.write(b, tellTimeout); err != nil {
				return err
			}
			b, more = w.next(b[:0])
		}
		if w.isEnded() {
			return nil
		}
		gap := time.After(tellGap)
		select {
		case <-w.asks:
		case <-beat.C:
		case <-w.wake:
			select { // what changes meanwhile goes along
			case <-w.asks:
			case <-gap:
			}
		}
	}
}

func (w *watcher) isEnded() bool {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	return w.ended || len(w.pending) > maxPending
}

func (w *watcher) write(b []byte, timeout time.Duration) error {
	if err := w.conn.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := w.conn.Write(b)
	return err
}

// next appends what is to be said, about tellBytes of it, and reports whether there was anything.
func (w *watcher) next(b []byte) (_ []byte, some bool) {
	p := w.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) < tellBytes {
		switch {
		case len(w.left) > 0:
			b = p.tellOf(b, w.left[0])
			w.left = w.left[1:]
		case w.answer != "":
			b = observe.Frame{Kind: observe.End, Name: w.answer}.Append(b)
			w.answer = ""
		case len(w.asked) > 0:
			b = w.begin(b, w.asked[0])
			w.asked = w.asked[1:]
		case len(w.pending) > 0:
			for name, farewell := range w.pending {
				if b = append(b, farewell...); farewell == nil {
					b = p.tellOf(b, name)
				}
				delete(w.pending, name)
				break
			}
		default:
			return b, len(b) > 0
		}
	}
	return b, true
}

// begin appends the head of an answer. p.mu is held.
func (w *watcher) begin(b []byte, q wish) []byte {
	p := w.p
	var ours observe.Digest
	for _, m := range p.services[q.service] {
		ours.Add(m.name, m.at.addr(), m.meta)
	}
	if p.announces(q.service) {
		ours.Add(p.name, p.addr, p.encoded)
	}
	bits := ours.Differing(q.knows)
	differs := func(name string) bool { return bits>>observe.Bucket(name)&1 == 1 }
	w.answer, w.left = q.service, nil
	for _, m := range p.services[q.service] {
		if m.dead || differs(m.name) {
			w.left = append(w.left, m.name)
		}
	}
	if p.announces(q.service) && differs(p.name) {
		w.left = append(w.left, p.name)
	}
	return observe.Frame{Kind: observe.Set, Name: q.service, Bits: bits}.Append(b)
}

// tellOf appends what is known of a member. p.mu is held.
func (p *pool) tellOf(b []byte, name string) []byte {
	if name == p.name {
		return observe.Frame{Kind: observe.Record, Name: name, Addr: p.addr, Meta: p.encoded}.Append(b)
	}
	m := p.members[name]
	if m == nil {
		return observe.Frame{Kind: observe.Gone, Name: name}.Append(b)
	}
	return observe.Frame{Kind: observe.Record, Name: name, Addr: m.at.addr(), Meta: m.meta, Dead: m.dead}.Append(b)
}

// peers appends some members that live: this one, one with the newest rules, and a few others.
func (w *watcher) peers(b []byte) []byte {
	p := w.p
	p.mu.Lock()
	defer p.mu.Unlock()
	var some []*member
	newest := new(member)
	for _, m := range p.members {
		if m.dead || m.lies {
			continue
		}
		if len(some) < toldPeers-2 {
			some = append(some, m)
		}
		if m.bundle > newest.bundle && len(m.services()) > 0 {
			newest = m
		}
	}
	if newest.name != "" && !slices.Contains(some, newest) {
		some = append(some, newest)
	}
	b = observe.Frame{Kind: observe.Peer, Name: p.name, Addr: p.addr, Meta: p.encoded}.Append(b)
	for _, m := range some {
		b = observe.Frame{Kind: observe.Peer, Name: m.name, Addr: m.at.addr(), Meta: m.meta}.Append(b)
	}
	return b
}

// doubt returns an error when the other end's certificate is good no more.
func (p *pool) doubt(conn *tls.Conn) error {
	_, err := p.identity.VerifyMember(conn.ConnectionState().PeerCertificates)
	return err
}

// size counts the members that live, this one included.
func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return 1 + len(p.members) - len(p.dead)
}

// watch and unwatch note who follows a service. p.mu is held.
func (p *pool) watch(w *watcher, service string) {
	p.watchers[service] = append(p.watchers[service], w)
}

func (p *pool) unwatch(w *watcher, service string) {
	all := p.watchers[service]
	if i := slices.Index(all, w); i >= 0 {
		all = slices.Delete(all, i, i+1)
	}
	if p.watchers[service] = all; len(all) == 0 {
		delete(p.watchers, service)
	}
}

// tell has those told of a member who follow one of these services. The farewell of one that left, nil otherwise, is its last record: it
// will be forgotten when it is its turn. p.mu is held.
func (p *pool) tell(name string, services []string, farewell []byte) {
	for _, s := range services {
		for _, w := range p.watchers[s] {
			if farewell != nil || w.pending[name] == nil {
				w.pending[name] = farewell
			}
			poke(w.wake)
		}
	}
}

// PoolSize returns how many members the pool has that live, this one included.
func (m *Member) PoolSize() int { return m.pool.size() }

// Observers returns how many processes observe the pool through this member.
func (m *Member) Observers() int {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.pool.observers
}
