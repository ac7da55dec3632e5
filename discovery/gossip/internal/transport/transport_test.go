package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery/gossip/internal/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func key(b byte) []byte { return bytes.Repeat([]byte{b}, transport.KeySize) }

func sealer(t testing.TB, label string, keys ...byte) *transport.Sealer {
	t.Helper()
	var all [][]byte
	for _, k := range keys {
		all = append(all, key(k))
	}
	s, err := transport.NewSealer(all, label)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSealer(t *testing.T) {
	s := sealer(t, "prod", 1, 2)
	sealed := s.Seal([]byte("before"), []byte("news"), "packet")[len("before"):]
	if len(sealed) != len("news")+transport.Overhead {
		t.Errorf("sealed to %d bytes", len(sealed))
	}
	for name, open := range map[string]func() ([]byte, error){
		"itself":           func() ([]byte, error) { return s.Open(sealed, "packet") },
		"rotated":          func() ([]byte, error) { return sealer(t, "prod", 2, 1).Open(sealed, "packet") },
		"!another key":     func() ([]byte, error) { return sealer(t, "prod", 2).Open(sealed, "packet") },
		"!another label":   func() ([]byte, error) { return sealer(t, "staging", 1).Open(sealed, "packet") },
		"!another purpose": func() ([]byte, error) { return s.Open(sealed, "reply") },
		"!shifted label":   func() ([]byte, error) { return sealer(t, "\x00prod", 1).Open(sealed, "packe") },
		"!cut":             func() ([]byte, error) { return s.Open(sealed[:transport.Overhead-1], "packet") },
		"!changed": func() ([]byte, error) {
			b := bytes.Clone(sealed)
			b[len(b)-1]++
			return s.Open(b, "packet")
		},
	} {
		b, err := open()
		if name[0] != '!' && (err != nil || string(b) != "news") {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		if name[0] == '!' && !errors.Is(err, transport.ErrSealed) {
			t.Errorf("%s: opened as %q, %v", name, b, err)
		}
	}
	if again := s.Seal(nil, []byte("news"), "packet"); bytes.Equal(again[:12], sealed[:12]) {
		t.Error("a nonce was used twice")
	}
}

func TestSealerRefusesKeys(t *testing.T) {
	for _, keys := range [][][]byte{nil, {nil}, {key(1)[:16]}, {key(1), key(2)[:31]}} {
		if _, err := transport.NewSealer(keys, ""); err == nil {
			t.Errorf("keys of %d are accepted", len(keys))
		}
	}
}

type unguarded struct{}

func (unguarded) Packet(b []byte, _ netip.AddrPort) [][]byte                { return [][]byte{b} }
func (unguarded) Stream(b []byte, _ bool, _ netip.AddrPort) ([]byte, error) { return b, nil }

type system struct {
	net.ListenConfig
	net.Dialer
}

// start returns a transport on loopback, whose outbound streams go through via, and its address.
func start(t testing.TB, via func(net.Conn) net.Conn) (*transport.Transport, string) {
	t.Helper()
	packets, ln, err := transport.Listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), new(system))
	if err != nil {
		t.Fatal(err)
	}
	if packets.LocalAddr().String() != ln.Addr().String() {
		t.Errorf("packets at %v, streams at %v", packets.LocalAddr(), ln.Addr())
	}
	tr := transport.New(transport.Config{
		Packets: packets, Listener: ln, Advertise: netip.MustParseAddrPort(ln.Addr().String()),
		Sealer: sealer(t, "", 1), Guard: unguarded{}, Logger: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil && via != nil {
				conn = via(conn)
			}
			return conn, err
		},
	})
	t.Cleanup(func() {
		if err := tr.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return tr, ln.Addr().String()
}

func TestPackets(t *testing.T) {
	a, _ := start(t, nil)
	b, to := start(t, nil)
	if _, err := a.WriteTo([]byte("news"), to); err != nil {
		t.Fatal(err)
	}
	if p := <-b.PacketCh(); string(p.Buf) != "news" || p.Timestamp.IsZero() {
		t.Errorf("got %q", p.Buf)
	}
}

func TestStreams(t *testing.T) {
	a, _ := start(t, nil)
	b, to := start(t, nil)
	for _, size := range []int{0, 1, 32<<10 - 1, 32 << 10, 32<<10 + 1, 64 << 10, 1 << 20} {
		request := bytes.Repeat([]byte{7}, size)
		conn, err := a.DialTimeout(to, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		served := <-b.StreamCh()
		got, err := io.ReadAll(served)
		if err != nil || !bytes.Equal(got, request) {
			t.Errorf("of %d bytes %d came, %v", size, len(got), err)
		}
		if _, err := served.Write(append(request, 'r')); err != nil {
			t.Error(err)
		}
		if got, err = io.ReadAll(conn); err != nil || len(got) != size+1 {
			t.Errorf("of %d bytes %d came back, %v", size+1, len(got), err)
		}
		for _, c := range []net.Conn{conn, served, conn} {
			_ = c.Close()
		}
	}
}

// spoiler changes the first write of a connection.
type spoiler struct {
	net.Conn
	how func([]byte) []byte
}

func (s spoiler) Write(b []byte) (int, error) {
	if _, err := s.Conn.Write(s.how(bytes.Clone(b))); err != nil {
		return 0, err
	}
	return len(b), s.Conn.(*net.TCPConn).CloseWrite()
}

// Nothing but the whole request, unchanged, in order, and once, gets through.
func TestSpoiledStreams(t *testing.T) {
	const id, chunk = 16, 2 + 32<<10 + transport.Overhead
	b, to := start(t, nil)
	for name, how := range map[string]func([]byte) []byte{
		"cut":       func(b []byte) []byte { return b[:len(b)-1] },
		"short":     func(b []byte) []byte { return b[:id+chunk] },
		"changed":   func(b []byte) []byte { b[len(b)-1]++; return b },
		"other id":  func(b []byte) []byte { b[0]++; return b },
		"left out":  func(b []byte) []byte { return append(b[:id], b[id+chunk:]...) },
		"repeated":  func(b []byte) []byte { return append(b[:id+chunk:id+chunk], b[id:]...) },
		"reordered": func(b []byte) []byte { return append(append(b[:id:id], b[id+chunk:id+2*chunk]...), b[id:]...) },
		"too long":  func(b []byte) []byte { b[id], b[id+1] = 0xff, 0xff; return b },
		"plain":     func([]byte) []byte { return []byte{6, 0x80} },
		"empty":     func([]byte) []byte { return nil },
	} {
		a, _ := start(t, func(c net.Conn) net.Conn { return spoiler{c, how} })
		conn, err := a.DialTimeout(to, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(make([]byte, 80<<10)); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Logf("%s: %v", name, err) // it may hang up early
		}
		hungUp := make(chan struct{})
		go func() {
			defer close(hungUp)
			_, _ = io.Copy(io.Discard, conn)
		}()
		select {
		case s := <-b.StreamCh():
			t.Errorf("%s: gets through", name)
			_ = s.Close()
		case <-hungUp:
		}
		_ = conn.Close()
		<-hungUp
	}
}

func TestShutdown(t *testing.T) {
	a, _ := start(t, nil)
	b, to := start(t, nil)
	conn, err := a.DialTimeout(to, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // as memberlist does; Shutdown waits for that
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}()
	for _, tr := range []*transport.Transport{a, b, a} {
		if err := tr.Shutdown(); err != nil {
			t.Error(err)
		}
	}
	if _, err := conn.Write([]byte("late")); err == nil {
		t.Error("a stream outlives its transport")
	}
	if _, err := a.DialTimeout(to, time.Second); err == nil {
		t.Error("dialed after Shutdown")
	}
	if _, err := a.WriteTo([]byte("late"), to); !errors.Is(err, net.ErrClosed) {
		t.Errorf("sent after Shutdown: %v", err)
	}
}

func BenchmarkSeal(b *testing.B) {
	s, message := sealer(b, "prod", 1), make([]byte, 200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Open(s.Seal(nil, message, "packet"), "packet"); err != nil {
			b.Fatal(err)
		}
	}
}
