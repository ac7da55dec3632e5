package transport

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/guard"
)

// Exchange exchanges full state with the member at address. It is what memberlist's Join does after it has looked a name
// up; Join itself is never called, for it would link a DNS library of half a megabyte.
//
// Memberlist answers a stream that brings state with its own and then merges what it got: it is asked once with nothing,
// for what to send, and once with what came back.
func (t *Transport) Exchange(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*StreamTimeout)
	defer cancel()
	own, err := t.ask(ctx, guard.NoState())
	if err != nil {
		return err
	}
	theirs, err := t.say(ctx, address, own)
	if err != nil {
		return err
	}
	if !guard.IsState(theirs) {
		return fmt.Errorf("gossip: %s did not answer with its state", address)
	}
	_, err = t.ask(ctx, theirs)
	return err
}

// ask hands memberlist an inbound stream that holds a message, and returns what it wrote until it closed it.
func (t *Transport) ask(ctx context.Context, message []byte) ([]byte, error) {
	c := &question{in: bytes.NewReader(message), done: make(chan struct{})}
	select {
	case t.streams <- c:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.ctx.Done():
		return nil, net.ErrClosed
	}
	select {
	case <-c.done: // memberlist reads and writes without blocking: it closes soon
		return c.out.Bytes(), nil
	case <-t.ctx.Done():
		return nil, net.ErrClosed
	}
}

// question is a stream in memory that memberlist alone uses, from one goroutine.
type question struct {
	in   *bytes.Reader
	out  bytes.Buffer
	done chan struct{}
}

func (c *question) Read(b []byte) (int, error)       { return c.in.Read(b) }
func (c *question) Write(b []byte) (int, error)      { return c.out.Write(b) }
func (c *question) LocalAddr() net.Addr              { return inMemory{} }
func (c *question) RemoteAddr() net.Addr             { return inMemory{} }
func (c *question) SetDeadline(time.Time) error      { return nil }
func (c *question) SetReadDeadline(time.Time) error  { return nil }
func (c *question) SetWriteDeadline(time.Time) error { return nil }
func (c *question) Close() error {
	close(c.done)
	return nil
}

type inMemory struct{}

func (inMemory) Network() string { return "memory" }
func (inMemory) String() string  { return "memory" }
