package faults_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/attack"
	"github.com/intramesh/mesh/discovery/gossip/internal/transport"
)

// unguarded lets everything pass.
type unguarded struct{}

func (unguarded) Packet([]byte, netip.AddrPort) [][]byte                    { return nil }
func (unguarded) Stream(b []byte, _ bool, _ netip.AddrPort) ([]byte, error) { return b, nil }

// An intruder has the pool's key and a certificate of the trust domain, and sends what it wants. Whatever it does ends by itself.
type intruder struct {
	*transport.Transport
	sp     spec
	plain  net.PacketConn
	victim []byte // its address
}

// attacks does what spec.Attack says to each of spec.Targets, of which the first is the victim of lies.
func attacks(ctx context.Context, sp spec) error {
	addr, err := netip.ParseAddr(sp.Addr)
	if err != nil {
		return err
	}
	victim, err := netip.ParseAddr(sp.Targets[0])
	if err != nil {
		return err
	}
	id, files, err := sp.credential()
	if err != nil {
		return err
	}
	defer files.Close()
	sealer, err := transport.NewSealer([][]byte{sp.key()}, sp.Label)
	if err != nil {
		return err
	}
	var d net.Dialer
	var lc net.ListenConfig
	packets, ln, err := transport.Listen(ctx, netip.AddrPortFrom(addr, port), &lc)
	if err != nil {
		return err
	}
	tr := transport.New(transport.Config{
		Packets: packets, Listener: ln, Dial: d.DialContext, Advertise: netip.AddrPortFrom(addr, port), Sealer: sealer, Guard: unguarded{},
		Identity: id, Logger: slog.New(slog.DiscardHandler),
	})
	defer func() { _ = tr.Shutdown() }()
	plain, err := lc.ListenPacket(ctx, "udp", net.JoinHostPort(sp.Addr, "0"))
	if err != nil {
		return err
	}
	defer plain.Close()
	x := &intruder{tr, sp, plain, victim.AsSlice()}
	do, ok := map[string]func(context.Context) error{
		"flood": x.flood, "bombs": x.bombs, "state": x.state, "name": x.name, "stall": x.stall,
	}[sp.Attack]
	if !ok {
		return fmt.Errorf("no attack %q", sp.Attack)
	}
	return do(ctx)
}

// packet sends one to every target.
func (x *intruder) packet(b []byte) error {
	for _, to := range x.sp.Targets {
		if _, err := x.WriteTo(b, fmt.Sprintf("%s:%d", to, port)); err != nil {
			return err
		}
	}
	return nil
}

// flood sends 6,000 packets to each, ten times as many by night: some that nobody can read, some that make no sense, some that nobody
// should have sent.
func (x *intruder) flood(context.Context) error {
	each := lasting(20_000, 2_000)
	noise := make([]byte, 1400)
	for i := range each {
		_, _ = rand.Read(noise[:64])
		for _, to := range x.sp.Targets {
			ip := net.ParseIP(to)
			if _, err := x.plain.WriteTo(noise, &net.UDPAddr{IP: ip, Port: port}); err != nil {
				return err
			}
		}
		odd := attack.Message(attack.Alive, "Incarnation", 1<<32-1, "Node", fmt.Sprint("x", i), "Addr", x.victim, "Port", port,
			"Meta", noise[:64], "Vsn", attack.Versions())
		if err := errors.Join(x.packet(noise[:i%200]), x.packet(odd)); err != nil {
			return err
		}
		if i%50 == 0 {
			wait(time.Millisecond)
		}
	}
	return nil
}

// bombs sends what would grow where it is opened, in packets and streams.
func (x *intruder) bombs(ctx context.Context) error {
	for range lasting(20, 2) {
		for _, what := range attack.All(x.sp.Instance, "other") {
			for _, p := range what.Packets {
				if len(p) < 60<<10 && !what.Plausible {
					if err := x.packet(p); err != nil {
						return err
					}
				}
			}
			for _, s := range what.Streams {
				if err := x.streams(ctx, s, 1, x.sp.Targets...); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// state claims to know so many members that their state has 100 MB, and then, eight times at once, that it has 8 MB.
func (x *intruder) state(ctx context.Context) error {
	one := attack.State(strings.Repeat("x", 60), attack.Attacker(), bytes.Repeat([]byte{1}, 512), attack.Versions(), 1, 0)
	state := func(size int) []byte { return attack.Exchange(size/len(one), bytes.Repeat(one, size/len(one))) }
	huge, large := state(100<<20), state(8<<20)
	for _, to := range x.sp.Targets {
		if err := errors.Join(x.streams(ctx, huge, 1, to), x.streams(ctx, large, 8, to)); err != nil {
			return err
		}
	}
	return nil
}

// streams sends some a message by several streams at once, as far as they listen.
func (x *intruder) streams(ctx context.Context, message []byte, n int, targets ...string) error {
	var wg sync.WaitGroup
	for _, to := range targets {
		for range n {
			wg.Go(func() {
				conn, err := x.DialTimeout(fmt.Sprintf("%s:%d", to, port), 5*time.Second)
				if err != nil {
					return // it takes no more
				}
				defer conn.Close()
				if _, err := conn.Write(message); err == nil {
					_, _ = io.Copy(io.Discard, conn)
				}
			})
		}
	}
	wg.Wait()
	return ctx.Err()
}

// name says in 2,000 packets that the victim is at the intruder's address.
func (x *intruder) name(context.Context) error {
	own := netip.MustParseAddr(x.sp.Addr).AsSlice()
	for i := range 2000 {
		if err := x.packet(attack.Message(attack.Alive, "Incarnation", 1000+i, "Node", x.sp.Instance, "Addr", own, "Port", port,
			"Meta", []byte{1}, "Vsn", attack.Versions())); err != nil {
			return err
		}
		wait(time.Millisecond)
	}
	return nil
}

// stall opens streams and leaves them alone: some before, some after the handshake, some in the middle of a message.
func (x *intruder) stall(ctx context.Context) error {
	var d net.Dialer
	for _, to := range x.sp.Targets {
		at := fmt.Sprintf("%s:%d", to, port)
		for range 100 {
			if raw, err := d.DialContext(ctx, "tcp", at); err == nil {
				defer raw.Close() //nolint:gocritic // that many
			}
		}
		for range 8 {
			if conn, err := x.DialTimeout(at, time.Second); err == nil {
				defer conn.Close() //nolint:gocritic // that many
			}
		}
	}
	select {
	case <-time.After(8 * time.Second):
	case <-ctx.Done():
	}
	return nil
}
