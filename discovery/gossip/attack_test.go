package gossip_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/discovery/gossip/internal/attack"
	"github.com/intramesh/mesh/discovery/gossip/internal/transport"
	"github.com/intramesh/mesh/discovery/internal/testlog"
)

// An attacker has sockets in the fabric, and sends what it wants.
type attacker struct {
	*transport.Transport
	host *host
}

type unguarded struct{}

func (unguarded) Packet(b []byte, _ netip.AddrPort) [][]byte                { return [][]byte{b} }
func (unguarded) Stream(b []byte, _ bool, _ netip.AddrPort) ([]byte, error) { return b, nil }

func (f *fabric) attacker(t *testing.T, key []byte) *attacker {
	return f.attackerAt(t, "10.6.6.6", key)
}

// attackerAt has the key, and an identity if one is given.
func (f *fabric) attackerAt(t testing.TB, ip string, key []byte, id ...transport.Identity) *attacker {
	t.Helper()
	f.hostile = true
	sealer, err := transport.NewSealer([][]byte{key}, "")
	if err != nil {
		t.Fatal(err)
	}
	h := f.host(ip)
	addr := netip.AddrPortFrom(h.Addr(), 7946)
	packets, ln, err := transport.Listen(t.Context(), addr, h)
	if err != nil {
		t.Fatal(err)
	}
	cfg := transport.Config{
		Packets: packets, Listener: ln, Dial: h.DialContext, Advertise: addr,
		Sealer: sealer, Guard: unguarded{}, Logger: slog.New(slog.DiscardHandler),
	}
	for _, i := range id {
		cfg.Identity = i
	}
	tr := transport.New(cfg)
	t.Cleanup(func() { _ = tr.Shutdown() })
	return &attacker{tr, h}
}

func (a *attacker) packet(t *testing.T, to string, b []byte) {
	t.Helper()
	if _, err := a.WriteTo(b, to+":7946"); err != nil {
		t.Fatal(err)
	}
}

// stream sends a request and reads until the member hangs up.
func (a *attacker) stream(t testing.TB, to string, b []byte) {
	t.Helper()
	conn, err := a.DialTimeout(to+":7946", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(b); err != nil {
		return // it has hung up
	}
	_, _ = io.Copy(io.Discard, conn)
}

// Each attack is run by somebody who holds the pool's key, and by somebody who doesn't. The first may
// raise suspicion for a moment; the other one must not be noticed but in counters and logs.
func TestAttacks(t *testing.T) {
	for i, named := range attack.All("", "") {
		for who, key := range map[string][]byte{"member": key(1), "stranger": key(9)} {
			t.Run(named.Name+"/"+who, func(t *testing.T) {
				inFabric(t, func(t *testing.T, f *fabric) {
					var told testlog.Buffer
					a := f.startWith(t, ipA, gossip.Config{Logger: slog.New(slog.NewTextHandler(&told, nil))})
					b, c := f.start(t, ipB, seedA), f.start(t, ipC, seedA)
					b.serve(t, "payments")
					c.serve(t, "payments")
					for _, n := range []*node{a, b, c} {
						n.within(t, 3*time.Second, "payments", ipB, ipC)
					}
					bystander, err := f.host("10.7.7.7").ListenPacket(t.Context(), "udp", "10.7.7.7:53")
					if err != nil {
						t.Fatal(err)
					}
					evil := f.attacker(t, key)
					what := attack.All(b.Instance(), c.Instance())[i]
					for _, to := range []string{ipA, ipB, ipC} {
						for _, p := range what.Packets {
							evil.packet(t, to, p)
						}
						for _, s := range what.Streams {
							evil.stream(t, to, s)
						}
					}
					if who == "stranger" || !what.Plausible {
						a.stays(t, 10*time.Second, ipB, ipC)
					}
					<-time.After(5 * time.Second)
					members(t, a, b, c)
					d := f.start(t, "10.0.0.4", seedA)
					for _, n := range []*node{a, b, c, d} {
						n.within(t, 5*time.Second, "payments", ipB, ipC)
					}
					a.stays(t, 20*time.Second, ipB, ipC)
					members(t, a, b, c, d)
					counted(t, a, &told, who, what)
					if n := len(bystander.(*socket).in); n > 0 {
						t.Errorf("a bystander got %d packets", n)
					}
				})
			})
		}
	}
}

// counted fails unless n has counted an attack that it can recognize, and its log tells of it in few lines.
func counted(t *testing.T, n *node, told *testlog.Buffer, who string, what attack.Attack) {
	t.Helper()
	r, lines := n.Refused(), strings.Count(told.String(), " refused=")
	found := r.Messages
	if who == "stranger" {
		found = r.Sealed
	}
	if recognized := who == "stranger" || !what.Plausible; recognized && (found == 0 || lines == 0) || lines > 8 {
		t.Errorf("%d lines tell of %+v", lines, r)
	}
}

// members fails unless each node holds exactly the nodes for members.
func members(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		var got, want []string
		for _, m := range n.Members() {
			got = append(got, m.Instance+" "+m.Addr.String())
		}
		for _, m := range nodes {
			want = append(want, m.Instance()+" "+m.Addr().String())
		}
		if want = sorted(want); !slices.Equal(got, want) {
			t.Errorf("%v holds for members %q, want %q", n.host.Addr(), got, want)
		}
	}
}

// Streams that are opened and left alone keep nobody else out.
func TestSilentStreams(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a := f.start(t, ipA)
		a.serve(t, "payments")
		evil := f.host("10.6.6.6")
		var refused int
		for range 200 {
			conn, err := evil.DialContext(t.Context(), "tcp", seedA)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			<-time.After(time.Millisecond)
			_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, context.DeadlineExceeded) {
				var timeout net.Error
				if !errors.As(err, &timeout) || !timeout.Timeout() {
					refused++
				}
			}
		}
		if refused < 100 {
			t.Errorf("only %d of 200 streams of one host were refused", refused)
		}
		b := f.start(t, ipB, seedA)
		b.within(t, 100*time.Millisecond, "payments", ipA)
		<-time.After(10 * time.Second)
		if n := a.Refused().Streams; n != 200 { // refused at once, or since nothing came
			t.Errorf("%d of 200 streams were counted", n)
		}
	})
}
