package mesh

import (
	"errors"
	"io"
	"net"
)

// What a dialed stream says about its endpoint.
const (
	unheard  int32 = iota // nothing: neither side has said anything yet, or the caller gave up
	heard                 // it has answered
	rejected              // it has refused the stream, or ended it without a word before the caller did
	brokeOff              // it was lost without a word
)

// reckon takes what nextData met, nil for data, into the verdict, of which the first counts. It returns err. The caller holds rmu.
func (c *conn) reckon(err error) error {
	if !c.counted || c.verdict.Load() != unheard {
		return err
	}
	if err == nil {
		c.verdict.Store(heard)
		return nil
	}
	verdict := brokeOff
	if timeout, ok := errors.AsType[net.Error](err); c.broken() || ok && timeout.Timeout() {
		return err
	}
	if _, denied := errors.AsType[*DeniedError](err); denied {
		verdict = rejected
	} else if errors.Is(err, io.EOF) {
		if c.endedFirst() {
			return err
		}
		verdict = rejected
	}
	c.verdict.Store(verdict)
	return err
}

// endedFirst reports whether this side has ended its direction. It does not wait for a Write under way.
func (c *conn) endedFirst() bool {
	select {
	case c.link.writing <- struct{}{}:
		defer func() { <-c.link.writing }()
		return c.wclosed
	default:
		return false
	}
}

// account ends the use of the endpoint.
func (c *conn) account() {
	switch c.verdict.Load() {
	case heard:
		c.release.Succeeded(0)
	case rejected:
		c.release.Rejected(0)
	case brokeOff:
		c.release.Failed()
	}
	c.release.Done()
}
