package mesh

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// reset tells the peer why it is cut off, then closes. It blocks for at most a second or so.
func (l *link) reset(d *DeniedError) {
	if l.fail(d) {
		l.tell(d)
		l.finish()
	}
}

// fail ends both directions for the application: nothing more is read, and no Write begins. It reports whether it was the first, who
// then owes tell and finish, or to close the connection below.
func (l *link) fail(d *DeniedError) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream == nil || !l.failure.CompareAndSwap(nil, d) {
		return false
	}
	_ = l.net.SetReadDeadline(past()) // wakes the reader
	return true
}

// tell sends the reason, if there is a chance to. It blocks for two resetWait at most.
func (l *link) tell(d *DeniedError) {
	t := time.NewTimer(resetWait)
	defer t.Stop()
	select {
	case l.writing <- struct{}{}: // kept: nobody writes after a reset
	case <-t.C:
		_ = l.net.Close()
		return
	}
	if l.net.spilling() {
		_ = l.net.Close()
		return
	}
	payload := deniedJSON(d)
	if len(payload) > maxResetJSON {
		payload = nil
	}
	b := make([]byte, frameHeader, frameHeader+len(payload))
	putHeader(b, frameReset, 0, len(payload))
	_ = l.net.SetWriteDeadline(time.Now().Add(resetWait))
	if _, err := l.tls.Write(append(b, payload...)); err != nil {
		_ = l.net.Close()
	}
}

// finish closes the connection when the peer has had the time to read what tell sent.
func (l *link) finish() {
	// Until the reader has left, linger would share the deadline with it, and what comes in.
	if c := l.active(); c != nil { // else nobody reads
		c.rmu.Lock()
		c.rmu.Unlock() //nolint:staticcheck // whoever reads next finds the failure first
	}
	l.net.linger()
	_ = l.net.Close()
}

// linger lets what was written reach the peer: closing a TCP socket with unread input would
// destroy it. It reads and drops what still comes, bounded.
func (c *netConn) linger() {
	if c.CloseWrite() != nil {
		return
	}
	const maxDrop = 1 << 20
	_ = c.SetReadDeadline(time.Now().Add(10 * resetWait))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.Conn, maxDrop))
}

// whyNotWritten looks for the reason that the peer gave before it closed: a program that writes first
// would otherwise see only a reset.
func (c *conn) whyNotWritten(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || c.closed.Load() || !c.rmu.TryLock() {
		return err
	}
	defer c.rmu.Unlock()
	if c.detached.Load() {
		return err
	}
	_ = c.link.net.SetReadDeadline(time.Now().Add(resetWait))
	defer c.restoreReadDeadline()
	_ = c.nextData()
	if d, ok := errors.AsType[*DeniedError](c.link.readErr); ok {
		return d
	}
	return err
}

// resetWait bounds how long a side waits to send or to receive the reason for a reset.
const resetWait = 100 * time.Millisecond

// parseReset reads why the peer ends the connection.
func (c *netConn) parseReset(b []byte) error {
	if d, ok := parseDenied(b); ok {
		if c.refused != nil {
			c.refused(d)
		}
		return d
	}
	return syscall.ECONNRESET
}
