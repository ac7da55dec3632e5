package main

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/bench/gossipsim/light"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSimulate runs every scenario on a small pool of real members: each must end with all that the table shows, and with a pool that is whole.
func TestSimulate(t *testing.T) {
	o, r := orderOf(0.5), &result{N: 12, Figures: make(map[string]float64)}
	synctest.Test(t, func(t *testing.T) {
		if err := o.members(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	})
	complete(t, r)
}

// TestModel does the same with the model.
func TestModel(t *testing.T) {
	for _, n := range []int{7, 12, 150} {
		r := &result{N: n, Model: true, Figures: make(map[string]float64)}
		if err := orderOf(0.5).model(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		complete(t, r)
	}
}

func orderOf(minutes float64) order {
	return order{losses: []int{0, 5, 20}, minutes: minutes, crashes: 4, latency: 500 * time.Microsecond, progress: io.Discard}
}

func complete(t *testing.T, r *result) {
	t.Helper()
	for _, row := range rows() {
		for _, name := range row.figures {
			if v, ok := r.Figures[name]; r.Model && (name == "heap_kib" || name == "idle_cpu_us" || strings.HasPrefix(name, "observer_")) {
				continue
			} else if !ok || v < 0 {
				t.Errorf("%s: %q is %v", row.title, name, v)
			}
		}
	}
	if r.Figures["rate_seen_p1"] != 1 || r.Figures["crash_100"] == 0 || r.Figures["idle_bytes"] == 0 {
		t.Errorf("implausible: %v", r.Figures)
	}
}

// TestAgreement holds the model against real members.
func TestAgreement(t *testing.T) {
	o := orderOf(1)
	o.crashes, o.scenarios = 20, []string{joining, "idle", "update", "crash", "churn"}
	members, model := &result{N: 50, Figures: make(map[string]float64)}, &result{N: 50, Model: true, Figures: make(map[string]float64)}
	synctest.Test(t, func(t *testing.T) {
		if err := o.members(t.Context(), members); err != nil {
			t.Fatal(err)
		}
	})
	if err := o.model(t.Context(), model); err != nil {
		t.Fatal(err)
	}
	ratios := both([]*result{members, model})[0].Figures
	for name, most := range map[string]float64{
		"idle_bytes": 1.15, "idle_packets": 1.02, "churn_bytes": 1.25, "churn_packets": 1.15, "join_seed_mib": 1.7,
		"update_50": 1.6, "update_99": 1.6, "crash_50": 1.3, "crash_99": 1.6,
	} {
		if r := ratios[name]; r > most || r < 1/most {
			t.Errorf("%s: the model has %.2f times the figure of real members, %v and %v", name, r, model.Figures[name], members.Figures[name])
		}
	}
}

// TestNetwork checks that losses and cuts are real: with all packets lost a crash would look like any other silence.
func TestNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		a, b := n.host(addressOf(0)), n.host(addressOf(1))
		from, err := a.ListenPacket(t.Context(), "udp", "10.0.0.1:1")
		if err != nil {
			t.Fatal(err)
		}
		to, err := b.ListenPacket(t.Context(), "udp", "10.0.0.2:1")
		if err != nil {
			t.Fatal(err)
		}
		received := make(chan time.Duration, 10)
		start := time.Now()
		go func() {
			for {
				if _, _, err := to.ReadFrom(make([]byte, 100)); err != nil {
					close(received)
					return
				}
				received <- time.Since(start)
			}
		}()
		send := func() {
			if _, err := from.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(to.(*socket).addr)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) //nolint:forbidigo // of the virtual clock
		}
		send() // arrives
		n.setLoss(1)
		send()
		n.setLoss(0)
		n.split(func(ip netip.Addr) bool { return ip == b.Addr() })
		send()
		n.split(nil)
		send() // arrives
		_, _ = from.Close(), to.Close()
		var got []time.Duration
		for at := range received {
			got = append(got, at)
		}
		if len(got) != 2 || got[0] < time.Millisecond || got[0] > 2*time.Millisecond || got[1] < 3*time.Second {
			t.Errorf("received after %v, want two: after a millisecond or two, and three seconds later", got)
		}
	})
}

func TestParse(t *testing.T) {
	for args, want := range map[string]string{
		"-n 10,x":         "want numbers",
		"-n 5":            "from 6 to 20000",
		"-run idle,eat":   `"eat": want some of join, idle`,
		"-n 10 -run idle": "",
	} {
		_, err := parse(strings.Fields(args))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

// TestMerged puts the parts of a run together.
func TestMerged(t *testing.T) {
	dir := t.TempDir()
	for _, part := range [][]*result{
		{{N: 100, Model: true, Figures: map[string]float64{"join_99": 3}}},
		{{N: 100, Figures: map[string]float64{"join_99": 9, "idle_bytes": 1}, CPU: 1}},
		{{N: 10, Figures: map[string]float64{"join_99": 5}}, {N: 100, Figures: map[string]float64{"join_99": 7}, CPU: 2}},
	} {
		if err := write(dir, part); err != nil {
			t.Fatal(err)
		}
	}
	all, err := merged(filepath.Join(dir, "gossip.json"), nil)
	if err != nil || len(all) != 3 || all[0].N != 10 || all[1].Model || !all[2].Model || all[1].Figures["join_99"] != 7 || all[1].Figures["idle_bytes"] != 1 || all[1].CPU != 3 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "gossip.json"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if write(dir, all) == nil {
		t.Error("replaced a file that is not ours")
	}
}

func TestTooMany(t *testing.T) {
	if _, known := available(); !known {
		t.Skip("this system does not say what memory it has")
	}
	if err := fits(1_000_000, needs(1_000_000)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a million members: %v", err)
	}
}

func TestPicture(t *testing.T) {
	svg := picture([]*result{{N: 10, Figures: map[string]float64{"join_99": 1, "idle_bytes": 400}}, {N: 100, Figures: map[string]float64{"join_99": 5, "crash_99": never.Seconds()}}})
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestSizes opens what real members send, and holds the sizes of the model's messages against it.
func TestSizes(t *testing.T) {
	want, err := light.Sizes()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := aes.NewCipher(make([]byte, 32))
	aead, _ := cipher.NewGCM(block)
	got := make(map[byte]map[int]bool)
	tap := func(b []byte) {
		b, err := aead.Open(nil, b[:12], b[12:], []byte("mesh gossip 1 packet\x00"))
		if err != nil {
			t.Error(err)
			return
		}
		if b[0] == 12 { // a checksum
			b = b[5:]
		}
		parts := [][]byte{b}
		if b[0] == 7 { // a compound
			lengths, rest := b[2:2+2*int(b[1])], b[2+2*int(b[1]):]
			for parts = nil; len(lengths) > 0; lengths = lengths[2:] {
				n := int(lengths[0])<<8 | int(lengths[1])
				parts, rest = append(parts, rest[:n]), rest[n:]
			}
		}
		for _, part := range parts {
			if got[part[0]] == nil {
				got[part[0]] = make(map[int]bool)
			}
			got[part[0]][len(part)] = true
		}
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(time.Millisecond)
		var mu sync.Mutex
		n.tap = func(b []byte) {
			mu.Lock()
			defer mu.Unlock()
			tap(b)
		}
		p, err := burst(t.Context(), n, 6, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.close() }()
		p.pause(5 * time.Second)
		p.kill(5)
		p.pause(time.Minute)
		if err := p.restart(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		p.pause(5 * time.Second)
	})
	for kind, sizes := range want {
		for _, size := range sizes {
			if !got[kind][size] {
				t.Errorf("no message of type %d has %d bytes: %v", kind, size, got[kind])
			}
		}
	}
}
