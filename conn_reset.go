package mesh

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// reset tells the peer why it is cut off, then closes. It blocks for at most a second or so.
func (c *conn) reset(d *DeniedError) {
	if !c.failure.CompareAndSwap(nil, d) {
		return
	}
	_ = c.net.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
	defer c.net.Close()
	t := time.NewTimer(resetWait)
	defer t.Stop()
	select {
	case c.writing <- struct{}{}: // kept: nobody writes after a reset
	case <-t.C:
		return
	}
	if c.net.spilling() {
		return
	}
	payload, err := json.Marshal(d)
	if err != nil || len(payload) > maxResetJSON {
		payload = nil
	}
	b := make([]byte, frameHeader, frameHeader+len(payload))
	putHeader(b, frameReset, len(payload))
	_ = c.net.SetWriteDeadline(time.Now().Add(resetWait))
	if _, err := c.tls.Write(append(b, payload...)); err != nil {
		return
	}
	// Until the reader has left, linger would share the deadline with it, and what comes in.
	c.rmu.Lock()
	c.rmu.Unlock() //nolint:staticcheck // whoever reads next finds the failure first
	c.net.linger()
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
	if errors.Is(err, os.ErrDeadlineExceeded) || c.isClosed() || !c.rmu.TryLock() {
		return err
	}
	defer c.rmu.Unlock()
	_ = c.net.SetReadDeadline(time.Now().Add(resetWait))
	defer func() { _ = c.restoreReadDeadline() }()
	_ = c.nextData()
	if d, ok := errors.AsType[*DeniedError](c.readErr); ok {
		return d
	}
	return err
}

// resetWait bounds how long a side waits to send or to receive the reason for a reset.
const resetWait = 100 * time.Millisecond

func parseReset(b []byte) error {
	d := new(DeniedError)
	if json.Unmarshal(b, d) != nil || d.Destination == "" {
		return syscall.ECONNRESET
	}
	return d
}
