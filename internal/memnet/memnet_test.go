package memnet_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/internal/memnet"
	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	addrA = netip.MustParseAddr("10.0.0.1")
	addrB = netip.MustParseAddr("10.0.0.2")
)

// connect returns the two ends of a connection from host a to host b.
func connect(t *testing.T, a, b *memnet.Host) (client, server net.Conn) {
	t.Helper()
	ln, err := b.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = a.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server
}

func hosts() (a, b *memnet.Host) {
	n := memnet.New()
	return n.Host(addrA), n.Host(addrB)
}

func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		a, b := hosts()
		c, s := connect(t, a, b)
		return c, s, func() { c.Close(); s.Close() }, nil
	})
}

func TestErrors(t *testing.T) {
	a, b := hosts()
	ln, err := b.Listen(t.Context(), "tcp", "0.0.0.0:80")
	if err != nil {
		t.Fatal(err)
	}
	if got := ln.Addr().String(); got != "10.0.0.2:80" {
		t.Errorf("Addr = %s", got)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	dial := func(ctx context.Context, address string) error {
		c, err := a.DialContext(ctx, "tcp", address)
		if err == nil {
			c.Close()
		}
		return err
	}
	listen := func(address string) error {
		l, err := b.Listen(t.Context(), "tcp", address)
		if err == nil {
			l.Close()
		}
		return err
	}
	var dns *net.DNSError
	for name, c := range map[string]struct{ err, want error }{
		"nobody listens":  {dial(t.Context(), "10.0.0.2:81"), syscall.ECONNREFUSED},
		"no such host":    {dial(t.Context(), "10.0.0.3:80"), syscall.ECONNREFUSED},
		"cancelled":       {dial(cancelled, "10.0.0.2:80"), context.Canceled},
		"port in use":     {listen(":80"), syscall.EADDRINUSE},
		"foreign address": {listen("10.0.0.1:80"), syscall.EADDRNOTAVAIL},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	if err := dial(t.Context(), "payments:80"); !errors.As(err, &dns) {
		t.Errorf("dial a name: %v, want a DNSError", err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if err := dial(t.Context(), "10.0.0.2:80"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after Close: %v", err)
	}
}

func TestUnspecifiedAndLoopbackAreTheHost(t *testing.T) {
	a, _ := hosts()
	ln, err := a.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, host := range []string{"", "localhost", "127.0.0.1", "::1", "::ffff:10.0.0.1"} {
		c, err := a.DialContext(t.Context(), "tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Errorf("dial %q: %v", host, err)
			continue
		}
		c.Close()
	}
}

func TestEndings(t *testing.T) {
	hello := []byte("hello")
	type step func(t *testing.T, c, s net.Conn)
	write := func(t *testing.T, c net.Conn) {
		t.Helper()
		if _, err := c.Write(hello); err != nil {
			t.Fatal(err)
		}
	}
	for name, check := range map[string]step{
		"half-close: the other direction goes on": func(t *testing.T, c, s net.Conn) {
			write(t, c)
			if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(s); string(b) != "hello" || err != nil {
				t.Errorf("ReadAll = %q, %v", b, err)
			}
			if _, err := c.Write(hello); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("Write after CloseWrite: %v", err)
			}
			write(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
				t.Errorf("ReadAll = %q, %v", b, err)
			}
		},
		"close delivers what was written": func(t *testing.T, c, s net.Conn) {
			write(t, c)
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(s); string(b) != "hello" || err != nil {
				t.Errorf("ReadAll = %q, %v", b, err)
			}
			if _, err := s.Write(hello); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("Write to a closed peer: %v", err)
			}
			for what, err := range map[string]error{
				"Close":       c.Close(),
				"CloseWrite":  c.(interface{ CloseWrite() error }).CloseWrite(),
				"SetDeadline": c.SetDeadline(time.Time{}),
			} {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s after Close: %v", what, err)
				}
			}
		},
		"close with unread data resets": func(t *testing.T, c, s net.Conn) {
			write(t, c)
			write(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(c)
			if string(b) != "hello" || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("ReadAll = %q, %v, want what was sent, then a reset", b, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := hosts()
			c, s := connect(t, a, b)
			check(t, c, s)
		})
	}
}

func TestBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosts()
		c, s := connect(t, a, b)
		if err := c.SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		n, err := c.Write(make([]byte, 1<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("Write: %v after %v", err, time.Since(start))
		}
		if n != 64<<10 {
			t.Errorf("%d bytes were buffered", n)
		}
		if got, err := io.ReadFull(s, make([]byte, n)); err != nil {
			t.Errorf("read %d: %v", got, err)
		}
	})
}

func TestWritesAreNotInterleaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 200 << 10
		a, b := hosts()
		c, s := connect(t, a, b)
		var wg sync.WaitGroup
		for _, v := range []byte("ab") {
			wg.Go(func() {
				if _, err := c.Write(bytes.Repeat([]byte{v}, size)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		got := make([]byte, 2*size)
		if _, err := io.ReadFull(s, got); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for i, v := range got {
			if v != got[i/size*size] {
				t.Fatalf("byte %d is of the other Write", i)
			}
		}
	})
}

// TestTLS is the case on which net.Pipe deadlocks: the server sends session tickets while the
// client sends its first bytes.
func TestTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{
			SerialNumber: big.NewInt(1), DNSNames: []string{"b"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AddCert(leaf)
		a, b := hosts()
		c, s := connect(t, a, b)
		server := tls.Server(s, &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			defer server.Close()
			if _, err := io.Copy(server, server); err != nil {
				t.Errorf("echo: %v", err)
			}
		})
		client := tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: "b"})
		if _, err := client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := client.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(client); string(got) != "hello" || err != nil {
			t.Errorf("echo = %q, %v", got, err)
		}
		client.Close()
		wg.Wait()
	})
}
