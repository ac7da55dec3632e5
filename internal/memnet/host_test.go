package memnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/internal/memnet"
)

func TestFullBacklogBlocksDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosts()
		ln, err := b.Listen(t.Context(), "tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var first net.Conn
		for {
			c, err := a.DialContext(ctx, "tcp", ln.Addr().String())
			if err != nil {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("dial: %v", err)
				}
				break
			}
			defer c.Close()
			if first == nil {
				first = c
			}
		}
		ln.Close()
		if _, err := first.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection that was never accepted: %v", err)
		}
	})
}

func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New()
		a, b := n.Host(addrA), n.Host(addrB)
		c, s := connect(t, a, b)
		ln, err := b.Listen(t.Context(), "tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("Read from the dead: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept: %v", err)
			}
		})
		synctest.Wait()
		b.Kill()
		wg.Wait()
		if _, err := s.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write by the dead: %v", err)
		}
		if _, err := a.DialContext(t.Context(), "tcp", "10.0.0.2:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial the dead: %v", err)
		}
		if _, err := b.DialContext(t.Context(), "tcp", "10.0.0.2:80"); err == nil {
			t.Error("the dead can dial")
		}
		if _, err := b.Listen(t.Context(), "tcp", ":80"); !errors.Is(err, syscall.ENETDOWN) {
			t.Errorf("the dead can listen: %v", err)
		}
		reborn, err := n.Host(addrB).Listen(t.Context(), "tcp", ":80")
		if err != nil {
			t.Fatalf("a new process at the address: %v", err)
		}
		reborn.Close()
	})
}

func TestFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosts()
		c, s := connect(t, a, b)
		ln, err := b.Listen(t.Context(), "tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		thaw := b.Freeze()
		if _, err := s.Write([]byte("hello")); err != nil {
			t.Errorf("Write by the frozen: %v", err)
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read from the frozen: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := a.DialContext(ctx, "tcp", "10.0.0.2:80"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial the frozen: %v", err)
		}
		if _, err := b.DialContext(ctx, "tcp", "10.0.0.2:80"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial by the frozen: %v", err)
		}
		s.Close()
		thaw()
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("after the thaw: %q, %v", got, err)
		}
		again, err := a.DialContext(t.Context(), "tcp", "10.0.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
	})
}
