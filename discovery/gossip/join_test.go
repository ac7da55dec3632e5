package gossip_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/gossip"
)

func endpoint(service string) discovery.Endpoint {
	return discovery.Endpoint{Service: service, Addr: netip.MustParseAddrPort("0.0.0.0:443")}
}

func TestRefusedConfig(t *testing.T) {
	for name, spoil := range map[string]func(*gossip.Config){
		"no key":    func(c *gossip.Config) { c.Keys = nil },
		"short key": func(c *gossip.Config) { c.Keys = [][]byte{key(1)[:16]} },
		"instance":  func(c *gossip.Config) { c.Instance = "a b" },
		"seed":      func(c *gossip.Config) { c.Seeds = []string{"example.org"} },
		"label":     func(c *gossip.Config) { c.Label = strings.Repeat("x", 256) },
		"advertise": func(c *gossip.Config) { c.Advertise = netip.IPv4Unspecified() },
		"network":   func(c *gossip.Config) { c.AdvertiseNetwork = "203.0.113.0/24" },
		"interface": func(c *gossip.Config) { c.AdvertiseNetwork = "there-is-no-such-interface" },
		"bind":      func(c *gossip.Config) { c.BindAddr = netip.MustParseAddrPort("192.0.2.1:0") },
		"dir":       func(c *gossip.Config) { c.Dir = os.DevNull },
	} {
		cfg := config()
		spoil(&cfg)
		if m, err := gossip.Join(t.Context(), cfg); err == nil {
			t.Errorf("%s: joined, %v", name, m.Close())
		}
	}
}

func TestJoinByName(t *testing.T) {
	a := join(t, config())
	_, port, _ := net.SplitHostPort(a.Addr().String())
	b := join(t, config("localhost:"+port))
	select {
	case <-b.Joined():
	default:
		t.Error("Join returned without a member")
	}
	if err := a.Register(t.Context(), endpoint("payments")); err != nil {
		t.Fatal(err)
	}
	got := discoverytest.AwaitCount(t, b, "payments", 1)
	if got[0].Addr != netip.AddrPortFrom(a.Addr().Addr(), 443) {
		t.Errorf("an unspecified address is announced as %v", got[0].Addr)
	}
}

func TestAdvertiseNetwork(t *testing.T) {
	lo := ""
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 {
			lo = i.Name
		}
	}
	for _, network := range []string{"127.0.0.0/8", "127.0.0.1/32", lo} {
		cfg := config()
		cfg.BindAddr, cfg.AdvertiseNetwork = netip.MustParseAddrPort("0.0.0.0:0"), network
		if ip := join(t, cfg).Addr().Addr(); ip != loopback.Addr() {
			t.Errorf("%s: it advertises %v", network, ip)
		}
	}
}

func TestAllAddresses(t *testing.T) {
	cfg := config()
	cfg.BindAddr = netip.AddrPort{}
	cfg.Advertise = loopback.Addr()
	a := join(t, cfg)
	b := join(t, config(a.Addr().String()))
	if err := b.Register(t.Context(), endpoint("payments")); err != nil {
		t.Fatal(err)
	}
	discoverytest.AwaitCount(t, a, "payments", 1)
}

func TestIPv6(t *testing.T) {
	cfg := config()
	cfg.BindAddr = netip.MustParseAddrPort("[::1]:0")
	if ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", cfg.BindAddr.String()); err != nil {
		t.Skipf("no IPv6 here: %v", err)
	} else if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	a := join(t, cfg)
	cfg.Seeds = []string{a.Addr().String()}
	b := join(t, cfg)
	if err := b.Register(t.Context(), discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort("[::]:443")}); err != nil {
		t.Fatal(err)
	}
	if got := discoverytest.AwaitCount(t, a, "payments", 1); got[0].Addr != netip.MustParseAddrPort("[::1]:443") {
		t.Errorf("got %+v", got)
	}
}

func TestZone(t *testing.T) {
	cfg := config()
	cfg.Zone = "eu-west-1a"
	a := join(t, cfg)
	b := join(t, config(a.Addr().String()))
	elsewhere := endpoint("orders")
	elsewhere.Zone = "eu-west-1b"
	for _, ep := range []discovery.Endpoint{endpoint("payments"), elsewhere} {
		if err := a.Register(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
	}
	if got := discoverytest.AwaitCount(t, b, "payments", 1); got[0].Zone != "eu-west-1a" {
		t.Errorf("got %+v", got)
	}
	if got := discoverytest.AwaitCount(t, b, "orders", 1); got[0].Zone != "eu-west-1b" {
		t.Errorf("got %+v", got)
	}
}

// Neither another key nor another label gets in, nor does it keep those who are in from working.
func TestStrangers(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		f.hostile = true
		a := f.start(t, ipA)
		a.serve(t, "payments")
		for i, cfg := range []gossip.Config{
			{Keys: [][]byte{key(2)}},
			{Label: "staging"},
		} {
			cfg.Seeds = []string{seedA}
			x := f.startWith(t, fmt.Sprintf("10.0.1.%d", i), cfg)
			x.serve(t, "payments")
			before := a.Refused().Sealed
			x.stays(t, time.Minute, fmt.Sprintf("10.0.1.%d", i))
			if a.Refused().Sealed == before {
				t.Errorf("%d: nothing was counted", i)
			}
		}
		a.stays(t, time.Minute, ipA)
		b := f.start(t, ipB, seedA)
		b.within(t, time.Second, "payments", ipA)
	})
}

func TestKeysRotate(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a := f.startWith(t, ipA, gossip.Config{Keys: [][]byte{key(1), key(2)}})
		b := f.startWith(t, ipB, gossip.Config{Keys: [][]byte{key(2), key(1)}, Seeds: []string{seedA}})
		a.serve(t, "payments")
		b.serve(t, "payments")
		a.within(t, time.Second, "payments", ipA, ipB)
		b.within(t, time.Second, "payments", ipA, ipB)
	})
}

func TestFullRecord(t *testing.T) {
	m := join(t, config())
	var full *gossip.FullError
	for i := range 100 {
		if err := m.Register(t.Context(), endpoint(fmt.Sprintf("service-%d", i))); err != nil {
			if !errors.As(err, &full) {
				t.Fatal(err)
			}
			if n := len(m.Members()[0].Endpoints); n != i || i < 25 {
				t.Errorf("%d endpoints after %d fitted", n, i)
			}
			break
		}
	}
	if full == nil || full.Limit >= full.Size {
		t.Errorf("got %v", full)
	}
	if got := m.Lookup("service-0").Endpoints; len(got) != 1 {
		t.Errorf("what was announced is lost: %v", got)
	}
}

func TestJoinIsCancelled(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		h := f.host(ipB)
		_, err := gossip.Join(ctx, gossip.Config{
			Keys: [][]byte{key(1)}, Network: h, BindAddr: netip.AddrPortFrom(h.Addr(), 7946), Seeds: []string{seedA},
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	}) // nothing may be left running in the bubble
}

// When Close has returned nothing runs any more, whatever happens at the same time.
func TestClose(t *testing.T) {
	a := join(t, config())
	b := join(t, config(a.Addr().String()))
	if err := b.Register(t.Context(), endpoint("payments")); err != nil {
		t.Fatal(err)
	}
	discoverytest.AwaitCount(t, a, "payments", 1)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { _ = b.Leave(t.Context()) })
		wg.Go(func() { _ = b.Register(t.Context(), endpoint("orders")) })
	}
	wg.Wait()
	if err := b.Register(t.Context(), endpoint("payments")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Register after Close: %v", err)
	}
}

// Memberlist's Shutdown leaves a probe that is going on alone with its timers.
func TestCloseDuringProbe(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a := f.startWith(t, ipA, gossip.Config{ProbeInterval: 10 * time.Second})
		b := f.start(t, ipB, seedA)
		b.serve(t, "payments")
		a.within(t, time.Second, "payments", ipB)
		f.setCut(func(_, _ netip.Addr) bool { return true })
		for cut := time.Now(); !running(t, "memberlist.(*Memberlist).probeNode"); <-time.After(time.Second) {
			if time.Since(cut) > time.Minute {
				t.Fatal("a member that does not answer is not probed")
			}
		}
		start := time.Now()
		for _, n := range []*node{a, b} {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("closing took %v", took)
		}
		synctest.Wait()
		if running(t, "hashicorp/memberlist") {
			t.Error("memberlist outlives Close")
		}
	})
}

// running reports whether any goroutine is in a function whose name holds this.
func running(t *testing.T, function string) bool {
	t.Helper()
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Fatal(err)
	}
	return strings.Contains(profile.String(), function)
}

func TestLeaveIsCancelled(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		a, b := f.start(t, ipA), f.start(t, ipB, seedA)
		b.serve(t, "payments")
		a.within(t, time.Second, "payments", ipB)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Leave(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if err := b.Close(); err != nil { // waits for the goodbye
			t.Error(err)
		}
		a.within(t, time.Second, "payments")
	})
}

func TestPeersFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gossip")
	a := join(t, config())
	cfg := config(a.Addr().String())
	cfg.Dir = dir
	b := join(t, cfg)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "peers.json")
	for name, want := range map[string]os.FileMode{dir: 0o700, path: 0o600} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
	}
	for _, content := range []string{"", "{", "[]", `{"x":1}`, strings.Repeat("{", 1<<17)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c := join(t, cfg)
		if err := c.Close(); err != nil {
			t.Errorf("with %.10q in the file: %v", content, err)
		}
	}
}

func TestLogsHoldNoKey(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		f.hostile = true // c has another key
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		secret := []byte("0123456789abcdefghijklmnopqrstuv")
		a := f.startWith(t, ipA, gossip.Config{Keys: [][]byte{secret}, Logger: log})
		b := f.startWith(t, ipB, gossip.Config{Keys: [][]byte{secret}, Logger: log, Seeds: []string{seedA, "10.9.9.9:1"}})
		c := f.startWith(t, ipC, gossip.Config{Logger: log, Seeds: []string{seedA}})
		a.serve(t, "payments")
		b.host.kill()
		<-time.After(time.Minute)
		if err := errors.Join(a.Close(), b.Close(), c.Close()); err != nil {
			t.Error(err)
		}
		text := out.String()
		if !strings.Contains(text, "member joined") || !strings.Contains(text, "memberlist") {
			t.Errorf("too little is logged to prove anything:\n%s", text)
		}
		for _, form := range []string{string(secret), hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret), fmt.Sprintf("%d", secret)} {
			if strings.Contains(text, form[:16]) {
				t.Errorf("a log holds a key:\n%s", text)
			}
		}
		if strings.Contains(text, "Stream connection") {
			t.Errorf("memberlist's debug lines are passed on:\n%s", text)
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	m := join(b, config())
	if err := m.Register(b.Context(), endpoint("payments")); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.Lookup("payments")
	}
}
