package mesh_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh"
)

// Servers do with their connections what they like, and their rules change all the time. No call fails, and each is served once.
func TestBriefStreamsUnderStress(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	s := newStress()
	defer s.wg.Wait()
	ln := w.listen(payments)
	defer ln.Close()
	s.serve(ln)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	s.wg.Go(func() {
		for ctx.Err() == nil {
			w.rules.set(rule{from: "orders", to: "payments"})
			pause(ctx, 100*time.Millisecond)
		}
	})
	s.call(ctx, orders, 8, func(err error) { t.Error(err) })
	s.check(t)
}

// Listeners that come and go may cost a call, as they do with TCP, but none is served twice, nor silently lost.
func TestBriefStreamsToListenersThatClose(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	orders := w.join("orders")
	s := newStress()
	defer s.wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, m := range []*mesh.Mesh{w.join("payments"), w.join("payments")} {
		s.wg.Go(func() {
			for ctx.Err() == nil {
				ln, err := m.Listen(t.Context(), "tcp", "127.0.0.1:0")
				if err != nil {
					t.Error(err)
					return
				}
				s.serve(ln)
				pause(ctx, time.Duration(50+rand.IntN(50))*time.Millisecond)
				ln.Close()
			}
		})
	}
	var failed atomic.Int64
	s.call(ctx, orders, 8, func(error) {
		failed.Add(1)
		pause(ctx, time.Millisecond)
	})
	s.check(t)
	t.Logf("%d calls, of which %d failed", s.calls.Load(), failed.Load())
}

// stress counts what became of calls: of each one with a number of its own.
type stress struct {
	wg     sync.WaitGroup
	calls  atomic.Uint64
	served sync.Map // number to *atomic.Int64
	done   sync.Map // number to true: its caller was answered
}

func newStress() *stress { return new(stress) }

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// serve answers in any way until ln is closed.
func (s *stress) serve(ln net.Listener) {
	s.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() { s.answer(c) })
		}
	})
}

func (s *stress) answer(c net.Conn) {
	defer c.Close()
	var b [8]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return
	}
	n, _ := s.served.LoadOrStore(b, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	if _, err := c.Write(b[:]); err != nil {
		return
	}
	switch rand.IntN(6) {
	case 0: // closes at once
	case 1: // closes, with something unread
		return
	case 2:
		_, _ = io.Copy(io.Discard, c)
	case 3: // stays, and does not read
		<-time.After(time.Duration(rand.IntN(3000)) * time.Microsecond)
	case 4: // has more to say
		_, _ = c.Write(make([]byte, 20_000))
		_, _ = io.Copy(io.Discard, c)
	case 5: // is closed while it writes
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.Write(make([]byte, 1<<20))
		}()
		c.Close()
		<-done
	}
}

// call calls payments, n at a time, without a pause.
func (s *stress) call(ctx context.Context, m *mesh.Mesh, n int, failed func(error)) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				number := s.calls.Add(1)
				if err := s.one(m, number); err != nil {
					failed(fmt.Errorf("call %d: %w", number, err))
				}
			}
		})
	}
	wg.Wait()
}

func (s *stress) one(m *mesh.Mesh, number uint64) error {
	c, err := m.Dial(context.Background(), "tcp", "payments")
	if err != nil {
		return err
	}
	defer c.Close()
	out := make([]byte, 8+number%100)
	binary.BigEndian.PutUint64(out, number)
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(out); err != nil {
		return err
	}
	if number%2 == 0 { // the server's last word may come in the next stream
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			return err
		}
	}
	var in [8]byte
	if _, err := io.ReadFull(c, in[:]); err != nil {
		return err
	}
	if in != [8]byte(out) {
		return fmt.Errorf("the answer to %x", in)
	}
	s.done.Store(in, true)
	return nil
}

func (s *stress) check(t *testing.T) {
	t.Helper()
	s.served.Range(func(number, n any) bool {
		if n := n.(*atomic.Int64).Load(); n > 1 {
			t.Errorf("call %x was served %d times", number, n)
		}
		return true
	})
	s.done.Range(func(number, _ any) bool {
		if _, ok := s.served.Load(number); !ok {
			t.Errorf("call %x was answered by nobody", number)
		}
		return true
	})
}
