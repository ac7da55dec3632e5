package mesh_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
)

// briefly dials, has a message answered, and closes, n times without a pause.
func briefly(ctx context.Context, m *mesh.Mesh, to string, n int) error {
	for i := range n {
		c, err := m.Dial(ctx, "tcp", to)
		if err != nil {
			return fmt.Errorf("dial %d: %w", i, err)
		}
		err = ping(c)
		if cerr := c.Close(); err != nil || cerr != nil {
			return fmt.Errorf("call %d: %w", i, errors.Join(err, cerr))
		}
	}
	return nil
}

// applications are what servers do with a connection, whose client says "ping" and leaves when it is told "ping". None
// of it is of the next client's concern.
var applications = map[string]func(net.Conn){
	"echoes": func(c net.Conn) {
		defer c.Close()
		_, _ = io.Copy(c, c)
	},
	"closes first": func(c net.Conn) {
		defer c.Close()
		_, _ = io.CopyN(c, c, 4)
	},
	"leaves bytes unread": func(c net.Conn) {
		defer c.Close()
		_, _ = c.Read(make([]byte, 1))
		_, _ = io.WriteString(c, "ping")
	},
	"leaves bytes unread, and stays": func(c net.Conn) {
		defer c.Close()
		_, _ = c.Read(make([]byte, 1))
		_, _ = io.WriteString(c, "ping")
		<-time.After(time.Hour)
	},
	"stays after the end": func(c net.Conn) {
		defer c.Close()
		_, _ = io.Copy(c, c)
		<-time.After(time.Hour)
	},
	"answers, and reads no more": func(c net.Conn) {
		defer c.Close()
		_, _ = io.CopyN(c, c, 4)
		<-time.After(time.Hour)
	},
	"gives up reading": func(c net.Conn) {
		defer c.Close()
		_, _ = io.CopyN(c, c, 4)
		_ = c.SetReadDeadline(time.Now().Add(time.Microsecond))
		_, _ = io.Copy(io.Discard, c)
		<-time.After(time.Hour)
	},
	"ends its side, and stays": func(c net.Conn) {
		defer c.Close()
		_, _ = io.CopyN(c, c, 4)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		<-time.After(time.Hour)
	},
	"goes on writing": func(c net.Conn) {
		defer c.Close()
		_, _ = io.CopyN(c, c, 4)
		for err := error(nil); err == nil; {
			_, err = c.Write(make([]byte, 10_000))
		}
	},
	"goes on writing a moment later": func(c net.Conn) {
		defer c.Close()
		_, _ = io.CopyN(c, c, 4)
		<-time.After(time.Microsecond)
		for err := error(nil); err == nil; {
			_, err = c.Write(make([]byte, 10_000))
		}
	},
	"is closed while it writes": func(c net.Conn) {
		_, _ = io.CopyN(c, c, 4)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.Write(make([]byte, 1<<20))
		}()
		<-time.After(time.Microsecond)
		c.Close()
		<-done
	},
	"is closed while it reads": func(c net.Conn) {
		_, _ = io.CopyN(c, c, 4)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.Read(make([]byte, 1))
		}()
		<-time.After(time.Microsecond)
		c.Close()
		<-done
	},
	"has a deadline": func(c net.Conn) {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Microsecond))
		_, _ = io.CopyN(c, c, 4)
		<-time.After(time.Hour)
	},
}

// Whatever an application does with a brief stream that its client has left, the next ones are served, and soon.
func TestBriefStreamsWhateverTheApplicationDoes(t *testing.T) {
	for name, serve := range applications {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newMemWorld(t)
				defer w.payments.Close()
				defer w.orders.Close()
				ln, err := w.payments.Listen(t.Context(), "tcp", ":0", mesh.ListenOptions{Port: "other"})
				if err != nil {
					t.Fatal(err)
				}
				var accepted atomic.Int64
				go func() {
					for {
						c, err := ln.Accept()
						if err != nil {
							return
						}
						accepted.Add(1)
						go serve(c)
					}
				}()
				const calls = 40
				start, before := time.Now(), allowed(w.payments)
				if err := briefly(t.Context(), w.orders, "payments:other", calls); err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > calls*10*time.Millisecond {
					t.Errorf("%d calls took %v", calls, took)
				}
				if n := allowed(w.payments) - before; n < calls { // open ones are now and then decided again
					t.Errorf("%d connections were decided, want %d", n, calls)
				}
				if n := accepted.Load(); n != calls {
					t.Errorf("%d connections were accepted, want %d", n, calls)
				}
				if name == "echoes" && w.network.dials.Load() > 8 {
					t.Errorf("%d handshakes", w.network.dials.Load())
				}
				w.orders.Close()
				<-time.After(2 * time.Hour)
			})
		})
	}
}

// A client that ends its direction, and leaves before the server has closed, meets the server's last word in the next stream.
func TestBriefStreamsThatTheClientEnds(t *testing.T) {
	bubble(t, func(t *testing.T, w *memWorld) {
		for range 20 {
			c, err := w.orders.Dial(t.Context(), "tcp", "payments")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, "ping"); err != nil {
				t.Fatal(err)
			}
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		if n := w.network.dials.Load(); n > 8 {
			t.Errorf("%d handshakes", n)
		}
	})
}

// What the client has sent is read, even if it left and came back since; its end, too.
func TestBriefStreamIsReadLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newMemWorld(t)
		defer w.payments.Close()
		defer w.orders.Close()
		ln, err := w.payments.Listen(t.Context(), "tcp", ":0", mesh.ListenOptions{Port: "later"})
		if err != nil {
			t.Fatal(err)
		}
		const calls = 10
		read := make(chan string, calls)
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.WriteString(c, "ping")
					<-time.After(time.Minute)
					b, err := io.ReadAll(c)
					read <- fmt.Sprint(string(b), err)
				}()
			}
		}()
		if err := briefly(t.Context(), w.orders, "payments:later", calls); err != nil {
			t.Fatal(err)
		}
		for range calls {
			if got := <-read; got != "ping<nil>" {
				t.Errorf("read %q", got)
			}
		}
	})
}

// The end of a brief stream that none follows is heard of in a moment, also when the client's process goes.
func TestBriefStreamEnds(t *testing.T) {
	for name, end := range map[string]func(w *memWorld){
		"by itself":       func(*memWorld) {},
		"with the client": func(w *memWorld) { w.orders.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *memWorld) {
				ln, err := w.payments.Listen(t.Context(), "tcp", ":0", mesh.ListenOptions{Port: "end"})
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 10)
				go func() {
					for {
						c, err := ln.Accept()
						if err != nil {
							return
						}
						go func() {
							defer c.Close()
							_, err := io.Copy(c, c)
							ended <- err
						}()
					}
				}()
				if err := briefly(t.Context(), w.orders, "payments:end", 10); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				end(w)
				for range 10 {
					if err := <-ended; err != nil {
						t.Error(err)
					}
				}
				if took := time.Since(start); took > 2*time.Millisecond {
					t.Errorf("the end took %v", took)
				}
			})
		})
	}
}

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
