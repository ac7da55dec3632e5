package gossip_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/observe"
	"github.com/intramesh/mesh/discovery/gossip/internal/transport"
)

func observerTLS(id transport.Identity) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{transport.ALPNObserve}, ClientAuth: tls.RequireAnyClientCert,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.Certificate() },
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.Certificate() },
	}
}

// Observers that flood, send nonsense, stall or never read lose their stream, and no other observer notices.
func TestHostileObservers(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		f.hostile = true
		d := f.domain(t, "example.test")
		a, b := d.member(t, "ledger", ipA), d.member(t, "payments", ipB, seedA)
		b.serve(t, "payments")
		o := d.observer(t, seedA)
		sees(t, o, 2*time.Second, ipB)
		id, evil := d.credential(t, "evil"), f.host("10.6.6.6")
		flood := func(f observe.Frame) (b []byte) {
			for range 3000 {
				b = f.Append(b)
			}
			return b
		}
		var wants []byte
		for i := range 2000 {
			wants = observe.Frame{Kind: observe.Want, Name: "s" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676))}.Append(wants)
		}
		for name, what := range map[string][]byte{
			"garbage":           []byte("\xff\xff\xff\xff\xff\xff"),
			"too many":          wants,
			"again and again":   flood(observe.Frame{Kind: observe.Want, Name: "payments"}),
			"beats":             flood(observe.Frame{Kind: observe.Beat}),
			"stalls in a frame": {0, 200, 1},
			"says nothing":      nil,
		} {
			conn, err := evil.DialContext(t.Context(), "tcp", seedA)
			if err != nil {
				t.Fatal(err)
			}
			c := tls.Client(conn, observerTLS(id))
			if err := c.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = c.Write(what) }()
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := io.Copy(io.Discard, c); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s: it is still served", name)
				}
			}
			_ = c.Close()
			sees(t, o, 0, ipB)
		}
		<-time.After(10 * time.Second)
		if n := a.Observers(); n > 1 {
			t.Errorf("%d observers are left", n)
		}
		if a.Refused().Messages == 0 {
			t.Error("nothing was counted")
		}
	})
}

// liarAt is a member that says what the test wants to whoever observes through it.
func (d *domain) liarAt(t *testing.T, ip string, says func(w io.Writer)) {
	t.Helper()
	ln, err := d.host(ip).Listen(t.Context(), "tcp", ip+":7946")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	id := d.credential(t, "evil")
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c := tls.Server(conn, observerTLS(id))
			if c.HandshakeContext(t.Context()) == nil {
				_, _ = c.Write(observe.Frame{Kind: observe.Hello, Members: 10}.Append(nil))
				says(c)
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
}

// One of the two members that are observed through lies: it withholds, forges, moves and accuses. What the other says is found all the same.
func TestLyingUpstream(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		d.member(t, "ledger", ipA)
		b, c := d.member(t, "payments", ipB, seedA), d.member(t, "payments", ipC, seedA)
		b.serve(t, "payments")
		c.serve(t, "payments")
		<-time.After(time.Second)
		at := netip.MustParseAddrPort(ipB + ":7946")
		forged := b.Announced()
		forged[len(forged)-1] ^= 1
		forged[4]++
		connected := make(chan struct{}, 1)
		d.liarAt(t, "10.6.6.6", func(w io.Writer) {
			connected <- struct{}{}
			for i := range 100 {
				var out []byte
				for _, frame := range []observe.Frame{
					{Kind: observe.Set, Name: "payments", Bits: 1<<64 - 1},
					{Kind: observe.End, Name: "payments"}, // there is nobody
					{Kind: observe.Record, Name: b.Instance(), Addr: at, Meta: forged},
					{Kind: observe.Record, Name: b.Instance(), Addr: netip.MustParseAddrPort("10.6.6.6:1"), Meta: b.Announced()},
					{Kind: observe.Record, Name: "nobody", Addr: netip.MustParseAddrPort("10.6.6.6:1"), Meta: []byte("nonsense")},
					{Kind: observe.Hello, Members: 1},
				} {
					out = frame.Append(out)
				}
				if i == 50 {
					out = observe.Frame{Kind: observe.Record, Name: b.Instance(), Addr: at, Meta: b.Announced(), Dead: true}.Append(out)
				}
				if _, err := w.Write(out); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		})
		o := d.observer(t, seedA, "10.6.6.6:7946")
		sees(t, o, 20*time.Second, ipB, ipC)
		<-connected
		keeps(t, o, 25*time.Second, ipB, ipC)
		// An accusation marks it, as in the gossip, and removes nothing.
		sees(t, o, 30*time.Second, ipB+"?", ipC)
		sees(t, o, 5*time.Second, ipB, ipC) // it takes that back
		if o.Refused().Forged == 0 {
			t.Error("no lie was counted")
		}
	})
}

// A member that is frozen says nothing: another takes its place within seconds, and nothing is lost meanwhile.
func TestFrozenUpstream(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		d.member(t, "ledger", ipA)
		b := d.member(t, "payments", ipB, seedA)
		b.serve(t, "payments")
		frozen := make(chan struct{}, 8)
		d.liarAt(t, "10.6.6.6", func(io.Writer) {
			frozen <- struct{}{}
			<-time.After(8 * time.Second)
		})
		o := d.observer(t, "10.6.6.6:7946", seedA)
		<-frozen
		sees(t, o, 8*time.Second, ipB)
		<-time.After(20 * time.Second)
		if len(o.Through()) == 0 {
			t.Error("nobody to observe through")
		}
		keeps(t, o, 20*time.Second, ipB)
	})
}
