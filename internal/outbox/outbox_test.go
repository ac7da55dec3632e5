package outbox_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/internal/outbox"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns a connection that collects, and its peer. Pipes hold nothing: a write lasts until it is read.
func pair(t *testing.T) (*outbox.Conn, net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	c := outbox.New(a)
	c.Collect()
	t.Cleanup(func() {
		_ = c.Close()
		_ = b.Close()
	})
	return c, b
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
}

// read is one Read of the peer's: what one write of the connection below brought.
func read(t *testing.T, c net.Conn) string {
	t.Helper()
	b := make([]byte, 1<<20)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestWhatIsWrittenMeanwhileGoesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pair(t)
		write(t, c, "a")
		synctest.Wait() // it is being sent
		write(t, c, "b")
		write(t, c, "c")
		if got := read(t, peer); got != "a" {
			t.Errorf("first %q", got)
		}
		if got := read(t, peer); got != "bc" {
			t.Errorf("then %q, want both at once", got)
		}
		synctest.Wait()
		write(t, c, "d")
		if got := read(t, peer); got != "d" {
			t.Errorf("after a pause %q", got)
		}
	})
}

// All comes in order, whatever the sizes, and no more than a bound is held back.
func TestOrderAndBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pair(t)
		var want bytes.Buffer
		var wrote int
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 400 {
				p := bytes.Repeat([]byte{byte(i)}, []int{1, 700, 17 << 10, 3, 100 << 10}[i%5])
				want.Write(p)
				if _, err := c.Write(p); err != nil {
					t.Error(err)
				}
				p[0]++ // it is the caller's again
				wrote += len(p)
			}
		}()
		synctest.Wait()
		if wrote > 64<<10+700 {
			t.Errorf("%d bytes were taken though nobody reads", wrote)
		}
		got := make([]byte, 80*(1+700+(17<<10)+3+(100<<10)))
		if _, err := io.ReadFull(peer, got); err != nil {
			t.Fatal(err)
		}
		<-done
		if !bytes.Equal(got, want.Bytes()) {
			t.Error("what came is not what was written")
		}
	})
}

// With a deadline a write lasts until all is sent, what was written before it included.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pair(t)
		write(t, c, "a")
		go func() {
			<-time.After(time.Second)
			_, _ = io.ReadFull(peer, make([]byte, 2))
		}()
		start := time.Now()
		_ = c.SetWriteDeadline(start.Add(5 * time.Second))
		write(t, c, "b")
		if took := time.Since(start); took != time.Second {
			t.Errorf("the last word took %v, want until it was read", took)
		}
		if _, err := c.Write([]byte("c")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("nobody reads: %v", err)
		}
	})
}

// The deadline also ends what is being sent already, and an error stays.
func TestDeadlineOfWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t)
		write(t, c, "a")
		synctest.Wait()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		for range 2 {
			if _, err := c.Write([]byte("b")); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Write = %v", err)
			}
		}
		_ = c.SetDeadline(time.Time{})
		if _, err := c.Write([]byte("b")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after that, with a part lost: %v", err)
		}
	})
}

// Close ends writes, those that wait for room as well.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t)
		write(t, c, "a")
		synctest.Wait()
		failed := make(chan error)
		go func() {
			for {
				if _, err := c.Write(make([]byte, 10<<10)); err != nil {
					failed <- err
					return
				}
			}
		}()
		synctest.Wait()
		_ = c.Close()
		if err := <-failed; err == nil {
			t.Error("no error")
		}
		if _, err := c.Write([]byte("b")); err == nil {
			t.Error("a write after Close succeeds")
		}
	})
}
