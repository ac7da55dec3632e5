package mesh

import (
	"net"
	"sync/atomic"
	"time"
)

// Brief streams. A client that has just ended a stream with an endpoint when it begins another one is likely to do so again: it opens
// that with frameBrief, and may then begin the one after it without a word about the end, nor one of the server's. What is
// left of a dial is two writes, the opening with the first bytes and the answer.
//
// The client does so when the server has answered the last of what it sent, which was no more than maxTail, when not too much came, nothing is
// left unread and the server has said nothing else meanwhile, and within about openWait: otherwise it says frameClose. Then all is as
// with other streams.
//
// What makes that safe is the server's: while a stream is brief, the next one may be on its way, and shall not suffer for it.
//
//   - The opening detaches the stream before. Its application reads its end and can no longer write; a frame that it is writing is finished first, and
//     the client skips what comes of it. Whatever the application does afterwards, and for how long, is of no concern to the link.
//   - If the application does not read, the lookout does. What it finds of the stream itself, it keeps: at most maxTail, from a client as above.
//   - If the application has closed the stream, what it left unread is skipped, up to maxSkip. A Write that Close breaks is
//     finished as far as its frame goes; the stream then ends without frameEnd, and the link a moment later.
//   - A server that wants no more streams (a rule, a certificate or the trust has changed, it drains, the listener is closed) says frameBye at once, and the client
//     looks before it begins one. One that has begun when frameBye arrives is served, verified and decided by what is in force; it is not
//     brief, and the last. Only a listener that is closed ends it, without an answer, as the kernel does with what is not accepted.
//   - If the present stream is cut, since a rule has changed, so is the one on its way: the question was the same.
//
// No bytes are ever sent twice: a link that breaks without a word, as it does when the server's process dies, gives an error to who has it.
const (
	maxTail = 4 << 10
	maxCame = 64 << 10
	maxSkip = 64 << 10
	// maxStale bounds what a client skips of the stream before.
	maxStale = 64 << 20
	// maxOwed is how long after the end of a brief stream the next one may be the first that the server hears of it.
	maxOwed = 10 * time.Millisecond
	// maxDetached bounds the streams of a link that the client has left and our application has not closed. Above it, or above maxAllDetached
	// of a mesh, the link serves no more than one other stream; a client that does not care is cut off at twice as many.
	maxDetached    = 16
	maxAllDetached = 4096
)

// owes reports whether the next stream may tell the server that this one is over. It is closed, and nobody reads or writes.
func (c *conn) owes() bool {
	l, y := c.link, c.tally
	if !c.brief || y == nil || l.gone {
		return false
	}
	sent := y.sent.Load()
	return sent > 0 && sent <= maxTail && y.came <= maxCame && (l.ended || y.heard == sent)
}

// A tally counts a dialed stream's bytes.
type tally struct {
	sent  atomic.Int64 // changes with the token held, before they are sent
	came  int64        // guarded by rmu, as what follows
	heard int64        // of what was sent, when the last of that came
}

func (y *tally) count(came int) { y.came, y.heard = y.came+int64(came), y.sent.Load() }

// isStale reports whether a frame is one of the stream before, to be skipped. The first one of the present stream is the last
// time that it may be.
func (l *link) isStale(f frame) bool {
	if !l.stale || f.frameType != frameData && f.frameType != frameEnd && f.frameType != frameClose {
		return false
	}
	l.skipped += frameHeader + f.n
	l.stale = f.epoch == l.epoch-1 && l.skipped <= maxStale
	return l.stale
}

// drop reads some of what is to be skipped.
func (l *link) drop() error {
	buf := l.mesh.buffers.frames.Get().(*[maxRecord]byte)
	defer l.mesh.buffers.frames.Put(buf)
	n, err := l.tls.Read(buf[:min(l.skip, len(buf))])
	if l.skip -= n; n == 0 && err != nil {
		return l.truncated(err)
	}
	return nil
}

// skips reports whether a frame is of a brief stream that the server's application has closed, and is skipped.
func (l *link) skips(f frame) bool {
	if !l.brief || l.ended || f.frameType != frameData || f.epoch != l.epoch {
		return false
	}
	l.skip = f.n
	l.skipped += frameHeader + f.n
	return l.skipped <= maxSkip
}

// opens reports whether a frame begins the stream after the present one.
func (l *link) opens(f frame) bool {
	return l.accepted() && (f.frameType == frameOpen || f.frameType == frameBrief) && f.epoch == l.epoch+1
}

// turn takes a frame that opens the next stream.
func (l *link) turn(f frame) {
	l.epoch, l.left, l.begun = f.epoch, f.n, true
	l.brief = f.frameType == frameBrief && !l.bye.Load()
}

// detach takes the link from a brief stream, of whose successor f is the first frame. The caller holds rmu.
func (c *conn) detach(f frame) {
	l := c.link
	l.mu.Lock()
	failed := l.failure.Load() != nil
	if !failed {
		l.stream = nil
		c.detached.Store(true)
		l.detached.Add(1)
		l.mesh.conns.detached.Add(1)
		failed = c.readDeadline.Load() != 0 && l.net.SetReadDeadline(time.Time{}) != nil
	}
	l.mu.Unlock()
	if failed {
		l.readErr = net.ErrClosed
		return
	}
	l.turn(f)
	l.home.(*listener).resume(l)
}

// forget says that the application has closed a detached stream.
func (l *link) forget() {
	l.detached.Add(-1)
	l.mesh.conns.detached.Add(-1)
}

// resume goes on with a link whose next stream has begun. A Write of the last one may be under way.
func (ln *listener) resume(l *link) {
	n := l.detached.Load()
	quiet := l.quiet()
	if quiet && !l.bye.Load() && (n > maxDetached || ln.mesh.conns.detached.Load() > maxAllDetached || !ln.mesh.current(l, time.Now())) {
		l.sayBye(l.epoch)
	}
	switch {
	case n > 2*maxDetached || ln.ctx.Err() != nil:
		_ = l.net.Close()
	case quiet:
		ln.serve(l)
	case ln.lot.add(l):
		ln.park(l)
	default:
		_ = l.net.Close()
	}
}

// quiet reports whether nobody writes, and nothing is left of what was written. There is no write deadline, then.
func (l *link) quiet() bool {
	select {
	case l.writing <- struct{}{}:
		ok := l.net.clearWriteDeadline()
		<-l.writing
		return ok
	default:
		return false
	}
}

// awaitQuiet waits for that, for closeWait at most.
func (ln *listener) awaitQuiet(l *link) bool {
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case l.writing <- struct{}{}:
		ok := l.net.SetWriteDeadline(time.Now().Add(closeWait)) == nil && l.net.waitSpill() == nil && l.net.clearWriteDeadline()
		<-l.writing
		return ok
	case <-t.C:
	case <-ln.ctx.Done():
	}
	return false
}

// serve decides a stream that has begun, and hands it to Accept. It does not block.
func (ln *listener) serve(l *link) {
	sc := l.net.peer.conn
	if (l.bye.Load() || ln.mesh.unchecked(l)) && !sc.verify() {
		return
	}
	c := l.begin(true)
	r := sc.request()
	d := ln.decide(sc, r)
	if d == nil {
		select {
		case ln.ready <- c:
			return
		default:
		}
	}
	ln.mesh.spawn(func() { ln.offer(sc, l.tls, c, r, d) })
}

// sayBye tells the client that there will be no more streams.
func (l *link) sayBye(epoch byte) {
	if l.sayIdle(frameBye, epoch) {
		l.bye.Store(true)
	}
}

// endBrief tells the clients of brief streams that there will be no more. The others are told when they end. It is about
// one listener's connections, or about all.
func (m *Mesh) endBrief(ln *listener) {
	for _, sc := range m.conns.all() {
		if sc.raw == nil || ln != nil && sc.raw.home != ln {
			continue
		}
		if c := sc.raw.active(); c != nil && c.brief && !sc.raw.bye.Load() {
			sc.raw.sayBye(c.epoch) // the link may be at the next already; if somebody writes, the next stream is told
		}
	}
}
