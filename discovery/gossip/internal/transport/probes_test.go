package transport_test

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/intramesh/mesh/discovery/gossip/internal/transport"
	"github.com/intramesh/mesh/internal/memnet"
)

var here = netip.MustParseAddrPort("10.0.0.1:7946")

// onePacket is a socket that has received one packet.
type onePacket struct {
	net.PacketConn
	sealed chan []byte
	close  func()
}

func (o *onePacket) ReadFrom(b []byte) (int, net.Addr, error) {
	sealed, ok := <-o.sealed
	if !ok {
		return 0, nil, net.ErrClosed
	}
	return copy(b, sealed), net.UDPAddrFromAddrPort(here), nil
}

func (o *onePacket) Close() error { o.close(); return nil }

// slowGuard takes its time with a packet.
type slowGuard struct {
	unguarded
	done chan struct{}
}

func (g slowGuard) Packet(b []byte, from netip.AddrPort) [][]byte {
	<-g.done
	return g.unguarded.Packet(b, from)
}

// What has come when Shutdown begins is handled before the pings are answered, since it may ask for another one.
func TestShutdownDuringPacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, err := memnet.New().Host(here.Addr()).Listen(t.Context(), "tcp", here.String())
		if err != nil {
			t.Fatal(err)
		}
		s, guard, in := sealer(t, "", 1), slowGuard{done: make(chan struct{})}, make(chan []byte, 1)
		in <- s.Seal(nil, []byte("news"), "mesh gossip 1 packet")
		tr := transport.New(transport.Config{
			Packets: &onePacket{sealed: in, close: sync.OnceFunc(func() { close(in) })}, Listener: ln, Advertise: here,
			Sealer: s, Guard: guard, Logger: slog.New(slog.DiscardHandler),
		})
		synctest.Wait()
		down := make(chan error, 1)
		go func() { down <- tr.Shutdown() }()
		synctest.Wait()
		select {
		case p := <-tr.PacketCh():
			t.Errorf("%q overtakes a packet", p.Buf)
		default:
		}
		close(guard.done)
		if p := <-tr.PacketCh(); string(p.Buf) != "news" {
			t.Errorf("got %q", p.Buf)
		}
		<-tr.PacketCh() // the last answer
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}
