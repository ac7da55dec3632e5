// Package transport stands between memberlist and the network. Everything is encrypted
// here, and what an honest member would not have sent never reaches memberlist.
package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/intramesh/mesh/discovery/gossip/internal/tally"
)

const (
	// maxPacket bounds what is read as one packet, in bytes.
	maxPacket = 16 << 10
	// maxLarge bounds how many messages of more than largeSize are read at one time, of all that others send.
	maxLarge = 4
	// StreamTimeout bounds each direction of a stream.
	StreamTimeout = 5 * time.Second

	packet = "mesh gossip 1 packet"
)

// A Guard decides what memberlist gets to see. It is safe for concurrent use.
type Guard interface {
	// Packet returns the messages of a packet that are fit to be handled.
	Packet(b []byte, from netip.AddrPort) [][]byte
	// Stream returns what is fit to be handled of a stream's message, or an error. A request is
	// the first message of a stream, its reply the second.
	Stream(b []byte, request bool, from netip.AddrPort) ([]byte, error)
}

// Config is what New needs; all fields but Identity and Refused are required. The transport closes Packets and
// Listener. With an Identity, streams are mutual TLS.
type Config struct {
	Packets   net.PacketConn
	Listener  net.Listener
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	Advertise netip.AddrPort
	Sealer    *Sealer
	Guard     Guard
	Identity  Identity
	Logger    *slog.Logger
	// Refused counts what is refused here; nil does not.
	Refused *tally.Tally
	// Observe serves an observer, who is a member of the trust domain, until it returns. The stream has no deadline, and is closed by
	// Shutdown. An observer who is one too many is to be sent away, within a second. Without an Identity nobody can observe.
	Observe func(conn *tls.Conn, tooMany bool)
}

// A Transport is a [memberlist.NodeAwareTransport].
type Transport struct {
	cfg     Config
	tls     *tls.Config // of streams that others open; nil without an Identity
	packets chan *memberlist.Packet
	streams chan net.Conn
	large   chan struct{} // has one for each large message that is being read
	handing chan struct{} // has one while memberlist is given what came, and for good once probes end
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	open    map[*stream]struct{} // nil after Shutdown
	inbound count                // open streams that others opened
	watch   count                // observers
	probes  probes
}

var _ memberlist.NodeAwareTransport = (*Transport)(nil)

// New starts a transport on open sockets.
func New(cfg Config) *Transport {
	t := &Transport{
		cfg:     cfg,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		open:    make(map[*stream]struct{}),
		large:   make(chan struct{}, maxLarge),
		handing: make(chan struct{}, 1),
		inbound: count{most: maxStreams, perHost: maxPerHost, by: make(map[netip.Addr]int)},
		watch:   count{most: maxObservers, perHost: observersPerHost, by: make(map[netip.Addr]int)},
	}
	if cfg.Identity != nil {
		t.tls = config(cfg.Identity, ALPN)
		if cfg.Observe != nil {
			t.tls = config(cfg.Identity, ALPN, ALPNObserve)
		}
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.wg.Go(t.readPackets)
	t.wg.Go(t.accept)
	return t
}

// FinalAdvertiseAddr implements [memberlist.Transport]. The address was chosen before.
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.cfg.Advertise.Addr().Unmap().AsSlice(), int(t.cfg.Advertise.Port()), nil
}

// PacketCh implements [memberlist.Transport].
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements [memberlist.Transport].
func (t *Transport) StreamCh() <-chan net.Conn { return t.streams }

// WriteTo implements [memberlist.Transport].
func (t *Transport) WriteTo(b []byte, address string) (time.Time, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return time.Time{}, err
	}
	if !t.note(b) {
		return time.Time{}, net.ErrClosed
	}
	_, err = t.cfg.Packets.WriteTo(t.cfg.Sealer.Seal(nil, b, packet), net.UDPAddrFromAddrPort(to))
	return time.Now(), err
}

// WriteToAddress implements [memberlist.NodeAwareTransport].
func (t *Transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// DialTimeout implements [memberlist.Transport].
func (t *Transport) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, min(timeout, StreamTimeout))
	defer cancel()
	conn, err := Dialer{t.cfg.Dial, t.cfg.Identity}.Open(ctx, address, ALPN)
	if err != nil {
		return nil, err
	}
	s := t.outbound(conn)
	if !t.track(s) {
		_ = conn.Close() // net.ErrClosed says enough
		return nil, net.ErrClosed
	}
	// Memberlist sets deadlines of its own, yet not for all it does.
	if err := s.SetDeadline(time.Now().Add(StreamTimeout)); err != nil {
		_ = s.Close() // the error that counts is in hand
		return nil, err
	}
	return s, nil
}

// DialAddressTimeout implements [memberlist.NodeAwareTransport].
func (t *Transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// Shutdown closes the sockets and all streams, and waits until nothing of the transport runs any
// more, nor anything of memberlist that waits for an answer or has not closed its stream. It can be
// called again.
func (t *Transport) Shutdown() error {
	t.endProbes()
	t.cancel()
	t.mu.Lock()
	open := t.open
	t.open = nil
	t.mu.Unlock()
	for s := range open {
		_ = s.raw.Close() // whoever uses it sees the error
	}
	err := errors.Join(ignoreClosed(t.cfg.Packets.Close()), ignoreClosed(t.cfg.Listener.Close()))
	t.wg.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (t *Transport) readPackets() {
	buf := make([]byte, maxPacket+1)
	for t.ctx.Err() == nil {
		n, addr, err := t.cfg.Packets.ReadFrom(buf)
		now := time.Now()
		if err != nil {
			if !t.pause(err) {
				return
			}
			continue
		}
		from := sender(addr)
		if n > maxPacket {
			t.refuse(tally.Message, from, errTooLong)
			continue
		}
		b, err := t.cfg.Sealer.Open(buf[:n], packet)
		if err != nil {
			t.refuse(tally.Sealed, from, err)
			continue
		}
		select {
		case t.handing <- struct{}{}:
		case <-t.ctx.Done():
			return
		}
		for _, part := range t.cfg.Guard.Packet(b, from) {
			select {
			case t.packets <- &memberlist.Packet{Buf: part, From: addr, Timestamp: now}:
			case <-t.ctx.Done():
				return
			}
		}
		<-t.handing
	}
}

func (t *Transport) accept() {
	for t.ctx.Err() == nil {
		conn, err := t.cfg.Listener.Accept()
		if err != nil {
			if !t.pause(err) {
				return
			}
			continue
		}
		from := sender(conn.RemoteAddr())
		s := &stream{Conn: conn, raw: conn, t: t, inbound: true, from: from, host: site(from.Addr())}
		if !t.track(s) {
			t.refuse(tally.Stream, from, errTooMany)
			_ = conn.Close() // the peer tries again or asks another
			continue
		}
		t.wg.Go(func() { t.serve(s) })
	}
}

// site returns what one sender can choose its addresses from: one IPv4 address, or an IPv6 network.
func site(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return ip
	}
	p, _ := ip.WithZone("").Prefix(64) // the size is right
	return p.Addr()
}

// serve hands the stream to memberlist once its request is known to be good.
func (t *Transport) serve(s *stream) {
	err := s.SetDeadline(time.Now().Add(StreamTimeout))
	if err == nil {
		err = t.accepted(s)
	}
	if err == nil && s.observer {
		t.observe(s)
		return
	}
	if err == nil {
		err = s.receive()
	}
	if err != nil {
		t.refuseStream(s.from, err)
		_ = s.Close() // the peer sees it
		return
	}
	if s.sync {
		if err := t.answerSync(s); err != nil && t.ctx.Err() == nil {
			t.cfg.Logger.Debug("gossip: no answer to a digest", "to", s.from, "error", err)
		}
		_ = s.Close() // it was answered, or the peer sees it
		return
	}
	select {
	case t.streams <- s:
	case <-t.ctx.Done():
		_ = s.Close() // shutting down
	}
}

// pause waits a little after an error of a socket, so that a lasting one doesn't spin. It returns
// false when the transport is to end.
func (t *Transport) pause(err error) bool {
	if errors.Is(err, net.ErrClosed) || t.ctx.Err() != nil {
		return false
	}
	t.cfg.Logger.Warn("gossip: socket", "error", err)
	select {
	case <-t.ctx.Done():
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}

// Listen opens packets and streams on the same port, a free one if address has port 0.
func Listen(ctx context.Context, address netip.AddrPort, n interface {
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
}) (net.PacketConn, net.Listener, error) {
	host := ""
	if ip := address.Addr(); ip.IsValid() && ip != netip.IPv6Unspecified() {
		host = ip.String()
	}
	for attempt := 0; ; attempt++ {
		ln, err := n.Listen(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(address.Port())))
		if err != nil {
			return nil, nil, err
		}
		port, err := netip.ParseAddrPort(ln.Addr().String())
		if err != nil {
			return nil, nil, errors.Join(err, ln.Close())
		}
		pc, err := n.ListenPacket(ctx, "udp", net.JoinHostPort(host, fmt.Sprint(port.Port())))
		if err == nil {
			return pc, ln, nil
		}
		// The port may be free for one and taken for the other.
		if err := errors.Join(err, ln.Close()); address.Port() != 0 || attempt == 15 {
			return nil, nil, err
		}
	}
}
