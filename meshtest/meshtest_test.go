package meshtest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serveEcho makes m answer every connection with its bytes.
func serveEcho(t *testing.T, m *mesh.Mesh) {
	t.Helper()
	ln, err := m.Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// echo sends a word to payments, over a new connection.
func echo(ctx context.Context, m *mesh.Mesh) error {
	c, err := m.Dial(ctx, "tcp", "payments")
	if err != nil {
		return err
	}
	defer c.Close()
	return exchange(c)
}

func exchange(c net.Conn) error {
	if _, err := io.WriteString(c, "hello"); err != nil {
		return err
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != "hello" {
		return fmt.Errorf("echo %q", b)
	}
	return nil
}

func wantDenied(t *testing.T, err error, version uint64) {
	t.Helper()
	var d *mesh.DeniedError
	if !errors.As(err, &d) {
		t.Fatalf("error %v, want a denial", err)
	}
	if d.Source != "spiffe://test.mesh/orders" || d.Destination != "payments" || d.Version != version {
		t.Errorf("denial %+v, want one by rules of version %d", d, version)
	}
}

func TestRulesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t)
		serveEcho(t, net.Join(t, "payments"))
		orders := net.Join(t, "orders")
		wantDenied(t, echo(t.Context(), orders), 1)

		net.SetRules(t, meshtest.Allow("payments", "orders"))
		c, err := orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := exchange(c); err != nil {
			t.Fatalf("allowed: %v", err)
		}

		net.SetRules(t, meshtest.Allow("payments", "somebody-else"))
		_, err = c.Read(make([]byte, 1))
		wantDenied(t, err, 3)
		wantDenied(t, echo(t.Context(), orders), 3)
	})
}

func TestKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "*"))
		victim := net.Join(t, "payments")
		serveEcho(t, victim)
		orders := net.Join(t, "orders")
		c, err := orders.Dial(t.Context(), "tcp", "payments")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := exchange(c); err != nil {
			t.Fatal(err)
		}
		net.Kill(t, victim)
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("Read from the dead: %v", err)
		}
		select {
		case <-victim.Done():
		default:
			t.Error("the victim's mesh is open")
		}
		if n := len(orders.Discovery().Lookup("payments").Endpoints); n != 1 {
			t.Errorf("%d endpoints are known: a crash is not announced", n)
		}
		var dial *mesh.DialError
		if err := echo(t.Context(), orders); !errors.As(err, &dial) {
			t.Errorf("dial the dead: %v", err)
		}
		serveEcho(t, net.Join(t, "payments"))
		for range 10 {
			if err := echo(t.Context(), orders); err != nil {
				t.Errorf("with a second instance: %v", err)
			}
		}
	})
}

func TestFreeze(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "*"))
		payments := net.Join(t, "payments")
		serveEcho(t, payments)
		orders := net.Join(t, "orders")
		thaw := net.Freeze(t, payments)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := echo(ctx, orders); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial the frozen: %v", err)
		}
		thaw()
		if err := echo(t.Context(), orders); err != nil {
			t.Errorf("after the thaw: %v", err)
		}
	})
}

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("*", "*"))
		payments, orders := net.Join(t, "payments"), net.Join(t, "orders")
		serveEcho(t, payments)
		if err := payments.Close(); err != nil {
			t.Fatal(err)
		}
		if err := echo(t.Context(), orders); !errors.Is(err, mesh.ErrNoEndpoints) {
			t.Errorf("dial after Close: %v", err)
		}
	})
}

// A peer without this library: a TLS client that has a certificate.
func TestForeignClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		payments := net.Join(t, "payments")
		serveEcho(t, payments)
		svid, err := net.Identity(t, "orders").GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		addr := payments.Discovery().Lookup("payments").Endpoints[0].Addr
		raw, err := net.Network().DialContext(t.Context(), "tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		cert := tls.Certificate{PrivateKey: svid.PrivateKey}
		for _, c := range svid.Certificates {
			cert.Certificate = append(cert.Certificate, c.Raw)
		}
		c := tls.Client(raw, &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
			InsecureSkipVerify: true, // it is the server's check that is tested
		})
		defer c.Close()
		if err := exchange(c); err != nil {
			t.Error(err)
		}
	})
}

// Certificates are issued by the bubble's clock, and live for an hour of it.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := meshtest.New(t, meshtest.Allow("payments", "orders"))
		serveEcho(t, net.Join(t, "payments"))
		orders := net.Join(t, "orders")
		if err := echo(t.Context(), orders); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Hour)
		if err := echo(t.Context(), orders); err == nil {
			t.Error("a connection was made with an expired certificate")
		}
	})
}

func TestAllow(t *testing.T) {
	// Names must be valid and distinct for SetRules to take them.
	net := meshtest.New(t)
	net.SetRules(t,
		meshtest.Allow("*", "mesh/control"),
		meshtest.Allow("billing/*", "orders", "checkout/*"),
		meshtest.Allow("billing/invoices", "*"))
}

// recorder is a testing.TB whose end can be observed.
type recorder struct {
	testing.TB
	fatal string
}

func (*recorder) Helper() {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestInvalidRulesEndTheTest(t *testing.T) {
	net := meshtest.New(t)
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		net.SetRules(r, `{"apiVersion": "mesh/v1", "kind": "Authorization", "metadata": {"name": "x"}, "sepc": {}}`)
	}()
	<-done
	if !strings.Contains(r.fatal, "sepc") {
		t.Errorf("Fatalf(%q), want the field's name", r.fatal)
	}
}
