package mesh_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/internal/testserve"
)

// What is written arrives, on one stream after the other, by whatever writes and reads, and whatever it looks like.
func TestWhateverIsWrittenArrives(t *testing.T) {
	w := newWorld(t, rule{from: "orders", to: "payments"})
	payments, orders := w.join("payments"), w.join("orders")
	testserve.Each(w.listen(payments), func(c net.Conn) { // answers with as much of its own
		defer c.Close()
		var head [8]byte
		for {
			if _, err := io.ReadFull(c, head[:]); err != nil {
				return
			}
			n, first := int(binary.BigEndian.Uint32(head[:])), head[4]
			if err := receive(c, n, first); err != nil {
				t.Error(err)
			}
			if _, err := c.Write(message(n, first)); err != nil {
				return
			}
		}
	})
	sizes := []int{1, 4, 16_379, 16_380, 16_381, 16_383, 16_384, 16_385, 16_388, 32_767, 32_768, 32_769, 65_536, 300_000}
	firsts := []byte{0, 'a', fData - 1, fData, fEnd, fReset, fOpen, fClose, fBye, fPing, fBrief, fBrief + 1, 0xff}
	stream := func(messages int) error {
		c, err := orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			return err
		}
		defer c.Close()
		for range messages {
			n, first := sizes[rand.IntN(len(sizes))], firsts[rand.IntN(len(firsts))]
			head := binary.BigEndian.AppendUint32(nil, uint32(n))
			if _, err := c.Write(append(head, first, 0, 0, 0)); err != nil {
				return err
			}
			if _, err := c.Write(message(n, first)); err != nil {
				return err
			}
			if err := receive(c, n, first); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range 400 {
		if err := stream(1 + i%3); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	if n := orders.Stats().Reused; n < 100 {
		t.Errorf("%d connections were used again", n)
	}
}

// message returns n bytes. At each place where a record may begin there is first.
func message(n int, first byte) []byte {
	b := bytes.Repeat([]byte{first, 1, 0, 3}, n/4+1)[:n]
	for i := 4; i+8 <= n; i += 8 {
		binary.BigEndian.PutUint32(b[i:], uint32(i))
	}
	return b
}

// receive reads a message in pieces of any size.
func receive(c net.Conn, n int, first byte) error {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got, want := make([]byte, 0, n), message(n, first)
	pieces := []int{1 + rand.IntN(9), 100, 4096, 16_383, 16_384, n}
	for size := pieces[rand.IntN(len(pieces))]; len(got) < n; {
		if n > 1<<15 {
			size = max(size, 100)
		}
		k, err := c.Read(got[len(got):min(n, len(got)+size)])
		if err != nil {
			return fmt.Errorf("%d bytes from %x, by %d, after %d: %w", n, first, size, len(got), err)
		}
		got = got[:len(got)+k]
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes from %x came differently", n, first)
	}
	return nil
}

// What a Write that times out says was taken is what arrives.
func TestTakenIsWhatArrives(t *testing.T) {
	for _, size := range []int{16_380, 16_384, 16_385, 32_768, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *memWorld) {
				ln := w.listen("taken")
				defer ln.Close()
				begin, count := make(chan struct{}), make(chan int64, 1)
				var wg sync.WaitGroup
				defer wg.Wait()
				wg.Go(func() {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					defer c.Close()
					<-begin
					n, err := io.Copy(io.Discard, c)
					if err != nil {
						t.Error(err)
					}
					count <- n
				})
				c, err := w.orders.Dial(t.Context(), "tcp", "payments:taken")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				taken, b := int64(0), make([]byte, size)
				for err == nil {
					var n int
					_ = c.SetWriteDeadline(time.Now().Add(time.Second))
					n, err = c.Write(b)
					taken += int64(n)
				}
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
				close(begin)
				synctest.Wait()
				_ = c.SetWriteDeadline(time.Now().Add(time.Second))
				if n, err := c.Write(b); n != size || err != nil { // as nothing had happened
					t.Errorf("%d bytes, %v", n, err)
				}
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
				if got, want := <-count, taken+int64(size); got != want {
					t.Errorf("%d bytes arrived, %d were taken", got, want)
				}
			})
		})
	}
}

// Data without a header is of the stream that the last data with one was of, also when their numbers have come round since.
func TestStreamNumbersComeRound(t *testing.T) {
	for _, opened := range []bool{false, true} { // before there is data
		bubble(t, func(t *testing.T, w *memWorld) {
			ln := w.listen("round")
			defer ln.Close()
			testserve.Each(ln, func(c net.Conn) {
				defer c.Close()
				_, _ = io.WriteString(c, "hello")
				n, _ := io.Copy(io.Discard, c)
				_, _ = fmt.Fprint(c, n)
			})
			before := w.orders.Stats().Reused
			for i := range 600 {
				c, err := w.orders.Dial(t.Context(), "tcp", "payments:round")
				if err != nil {
					t.Fatal(err)
				}
				if opened {
					if _, err := io.CopyN(io.Discard, c, 5); err != nil {
						t.Fatal(err)
					}
				}
				var p []byte
				if i%256 == 3 {
					p = bareData
				}
				if _, err := c.Write(p); err != nil {
					t.Fatal(err)
				}
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
				if b, err := io.ReadAll(c); err != nil || strings.TrimPrefix(string(b), "hello") != fmt.Sprint(len(p)) {
					t.Fatalf("stream %d: of %d bytes came %q, %v", i, len(p), b, err)
				}
				_ = c.Close()
				synctest.Wait()
			}
			if n := w.orders.Stats().Reused - before; n != 599 {
				t.Errorf("%d streams used a connection again", n)
			}
		})
	}
}
