package gossip_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/discovery/internal/dnstest"
)

const (
	seedSRV         = "_gossip._tcp.mesh.example."
	isolatedWarning = "no seed and no known peer answers"
)

// zone has a target of seedSRV for each member, of priority 10, 20, ….
func zone(members ...netip.AddrPort) (records []string) {
	for i, a := range members {
		host := fmt.Sprintf("h%d.example.", i)
		records = append(records, fmt.Sprintf("%s 1 IN SRV %d 1 %d %s", seedSRV, 10+10*i, a.Port(), host), host+" 1 IN A "+a.Addr().String())
	}
	return records
}

func resolver(s *dnstest.Server) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Addr.String())
	}}
}

// nobody is an address where nobody answers.
func nobody(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ln.Addr().(*net.TCPAddr).AddrPort()))
	if err != nil {
		t.Skip(err) // somebody else has the port
	}
	t.Cleanup(func() { _ = pc.Close() })
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	_ = ln.Close()
	return addr
}

// knows returns the names of those that m knows, itself among them, in order.
func knows(m *gossip.Member) (names []string) {
	for _, i := range m.Members() {
		names = append(names, i.Instance)
	}
	return names
}

func TestSeedsBySRV(t *testing.T) {
	for name, records := range map[string]func(a, b netip.AddrPort) []string{
		"priority":    func(a, b netip.AddrPort) []string { return zone(a, b) },
		"one is down": func(a, _ netip.AddrPort) []string { return zone(nobody(t), a) },
		"one is unknown": func(a, _ netip.AddrPort) []string {
			return append(zone(a), seedSRV+" 1 IN SRV 1 1 7946 gone.example.")
		},
		"one is no place": func(a, _ netip.AddrPort) []string {
			return append(zone(a), seedSRV+" 1 IN SRV 1 1 7946 .", seedSRV+" 1 IN SRV 1 1 0 h0.example.")
		},
	} {
		t.Run(name, func(t *testing.T) {
			first, other := join(t, config()), join(t, config()) // two pools
			cfg := config(seedSRV)
			cfg.Resolver, cfg.JoinTimeout = resolver(dnstest.Serve(t, records(first.Addr(), other.Addr())...)), 20*time.Second
			b := join(t, cfg)
			if got := knows(b); len(got) != 2 || !slices.Contains(got, first.Instance()) {
				t.Errorf("%s joined %v, want %s", b.Instance(), got, first.Instance())
			}
			if now, alone := b.Isolated(); alone {
				t.Errorf("it is isolated: %+v", now)
			}
		})
	}
}

func TestSeedsAreLookedUpAnew(t *testing.T) {
	a := join(t, config())
	s := dnstest.Serve(t)
	cfg, failed := config(seedSRV), newLogbook(isolatedWarning)
	cfg.Resolver, cfg.JoinTimeout, cfg.Logger = resolver(s), time.Millisecond, slog.New(failed)
	b := join(t, cfg)
	<-failed.first
	s.Set(zone(nobody(t), a.Addr())...)
	<-b.Joined()
	if got := knows(b); !slices.Contains(got, a.Instance()) {
		t.Errorf("it joined %v", got)
	}
}

// An answer of 1,000 targets must not make a member ask for, and connect to, 1,000 hosts.
func TestSeedsAreBounded(t *testing.T) {
	var zone []string
	for i := range 100 {
		zone = append(zone, fmt.Sprintf("%s 1 IN SRV 1 1 1 h%d.example.", seedSRV, i))
	}
	s := dnstest.Serve(t, zone...)
	cfg, failed := config(seedSRV), newLogbook(isolatedWarning)
	cfg.Resolver, cfg.JoinTimeout, cfg.RejoinInterval, cfg.Logger = resolver(s), time.Millisecond, time.Hour, slog.New(failed)
	b := join(t, cfg)
	<-failed.first
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if n := s.Count("udp") + s.Count("tcp"); n > 200 {
		t.Errorf("%d questions", n)
	}
}

func TestCheckSeed(t *testing.T) {
	for seed, ok := range map[string]bool{
		"10.0.0.1:7946": true, "[2001:db8::1]:7946": true, "seed.example.org:7946": true, "_gossip._tcp.mesh.example.org": true,
		"": false, "seed.example.org": false, "seed.example.org:gossip": false, "10.0.0.1:70000": false, "_gossip._tcp.mesh.example.org:1:2": false,
	} {
		if err := gossip.CheckSeed(seed); (err == nil) != ok {
			t.Errorf("%q: %v", seed, err)
		}
	}
}

// A logbook keeps the records with a certain message, and when they came.
type logbook struct {
	slog.Handler
	message string
	first   chan struct{} // closed with the first of them

	mu   sync.Mutex
	at   []time.Time
	text []string
}

func newLogbook(message string) *logbook {
	return &logbook{message: message, first: make(chan struct{})}
}

func (l *logbook) Enabled(context.Context, slog.Level) bool { return true }

func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	if !strings.Contains(r.Message, l.message) {
		return nil
	}
	text := r.Level.String()
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at == nil {
		close(l.first)
	}
	l.at, l.text = append(l.at, r.Time), append(l.text, text)
	return nil
}

func (l *logbook) read() ([]time.Time, []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.at), slices.Clone(l.text)
}

// noDNS returns a resolver that reaches no server, and a count of its attempts, of which each lookup makes the same number.
func noDNS(t *testing.T) (r *net.Resolver, asked *atomic.Int32, each int32) {
	asked = new(atomic.Int32)
	r = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		asked.Add(1)
		return nil, errors.New("no DNS here")
	}}
	_, _ = r.LookupHost(t.Context(), "seed.example.org") // package net must not begin with either in a bubble
	asked.Store(0)
	_, _, _ = r.LookupSRV(t.Context(), "", "", seedSRV)
	return r, asked, asked.Load()
}

func TestIsolation(t *testing.T) {
	dns, _, _ := noDNS(t)
	inFabric(t, func(t *testing.T, f *fabric) {
		start := time.Now()
		warnings, ends := newLogbook(isolatedWarning), newLogbook("others are reached again")
		b := f.startWith(t, ipB, gossip.Config{
			Logger:   slog.New(slog.NewMultiHandler(warnings, ends)),
			Seeds:    []string{seedA, "seed.example.org:7946", ipB + ":7946"},
			Resolver: dns,
		})
		now, alone := b.Isolated()
		if !alone || now.Since != start || len(now.Seeds) != 3 || now.Seeds[0].Err == nil || now.Seeds[1].Err == nil || now.Seeds[2].Err != nil {
			t.Errorf("isolated is %v: %+v", alone, now)
		}
		<-time.After(4 * time.Hour)
		at, text := warnings.read()
		if len(at) < 20 || len(at) > 40 {
			t.Fatalf("%d warnings in 4 hours: %v", len(at), at)
		}
		var gaps []time.Duration
		for i, when := range at {
			if i > 0 {
				gaps = append(gaps, when.Sub(at[i-1]).Truncate(time.Second))
			}
			if !strings.Contains(text[i], "WARN") || !strings.Contains(text[i], seedA+": ") || !strings.Contains(text[i], "no DNS here") {
				t.Errorf("warning %d: %s", i, text[i])
			}
		}
		if at[0] != start || !slices.IsSorted(gaps[:6]) || slices.Max(gaps) > 11*time.Minute || gaps[0] > 21*time.Second {
			t.Errorf("first after %v, then after %v", at[0].Sub(start), gaps)
		}
		a := f.start(t, ipA)
		a.serve(t, "payments")
		b.within(t, 20*time.Second, "payments", ipA)
		<-time.After(time.Minute)
		if at, text := ends.read(); len(at) != 1 || !strings.Contains(text[0], "INFO after=4h0m") {
			t.Errorf("the end: %v", text)
		}
		if now, alone := b.Isolated(); alone {
			t.Errorf("still isolated: %+v", now)
		}
		// It is alone again, and that begins anew.
		a.host.kill()
		<-time.After(time.Minute)
		if now, alone := b.Isolated(); !alone || time.Since(now.Since) > time.Minute {
			t.Errorf("isolated is %v: %+v", alone, now)
		}
		again, _ := warnings.read()
		if n := len(again) - len(at); n < 2 || n > 4 {
			t.Errorf("%d warnings in a minute", n)
		}
	})
}

// TestSeedsAreLookedUpRarely: members of a large pool all have the same name servers. One that is alone, or has lost many, asks often.
func TestSeedsAreLookedUpRarely(t *testing.T) {
	dns, asked, each := noDNS(t)
	inFabric(t, func(t *testing.T, f *fabric) {
		b := f.startWith(t, ipB, gossip.Config{Seeds: []string{seedSRV}, Resolver: dns})
		during := func(what string, d time.Duration, least, most int32) {
			t.Helper()
			asked.Store(0)
			<-time.After(d)
			if n := asked.Load() / each; n < least || n > most {
				t.Errorf("%s: %d lookups in %v, want %d to %d", what, n, d, least, most)
			}
		}
		during("alone", 10*time.Minute, 50, 250)
		a := f.start(t, ipA, ipB+":7946")
		c := f.start(t, "10.0.0.9", ipB+":7946")
		during("at first among others", 5*time.Minute, 3, 9)
		during("among others", time.Hour, 12, 26)
		c.host.kill()
		during("one of two is gone", 5*time.Minute, 3, 12)
		a.host.kill()
		during("alone again", 10*time.Minute, 50, 250)
		if now, alone := b.Isolated(); !alone {
			t.Errorf("%+v", now)
		}
	})
}

func TestFirstMemberIsNotIsolated(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		warnings := newLogbook(isolatedWarning)
		for ip, seeds := range map[string][]string{ipA: nil, ipB: {ipB + ":7946"}} {
			m := f.startWith(t, ip, gossip.Config{Label: ip, Seeds: seeds, Logger: slog.New(warnings)})
			<-time.After(time.Hour)
			if now, alone := m.Isolated(); alone {
				t.Errorf("with %v: %+v", seeds, now)
			}
		}
		if _, text := warnings.read(); len(text) > 0 {
			t.Errorf("it warns: %v", text)
		}
	})
}
