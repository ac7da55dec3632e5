package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/internal/testserve"
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
				ln := w.listen("other")
				var accepted atomic.Int64
				testserve.Each(ln, func(c net.Conn) {
					accepted.Add(1)
					serve(c)
				})
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
		ln := w.listen("later")
		const calls = 10
		read := make(chan string, calls)
		testserve.Each(ln, func(c net.Conn) {
			defer c.Close()
			_, _ = io.WriteString(c, "ping")
			<-time.After(time.Minute)
			b, err := io.ReadAll(c)
			read <- fmt.Sprint(string(b), err)
		})
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
				ln := w.listen("end")
				ended := make(chan error, 10)
				testserve.Each(ln, func(c net.Conn) {
					defer c.Close()
					_, err := io.Copy(c, c)
					ended <- err
				})
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
