package main

import (
	"encoding/xml"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestSimulate runs every scenario on a small pool: each must end with all that the table shows, and with a pool that is whole.
func TestSimulate(t *testing.T) {
	var r *result
	synctest.Test(t, func(t *testing.T) {
		var err error
		if r, err = (order{losses: []int{0, 5, 20}, minutes: 0.5, latency: 500 * time.Microsecond, progress: io.Discard}).simulate(t.Context(), 12); err != nil {
			t.Fatal(err)
		}
	})
	for _, row := range rows() {
		for _, name := range row.figures {
			if v, ok := r.Figures[name]; !ok || v < 0 {
				t.Errorf("%s: %q is %v", row.title, name, v)
			}
		}
	}
	if r.Figures["rate_seen_p1"] != 1 || r.Figures["crash_100"] == 0 || r.Figures["idle_bytes"] == 0 {
		t.Errorf("implausible: %v", r.Figures)
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
			pause(time.Second)
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
		"-run idle,eat":   `"eat": want some of idle, update`,
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
		{{N: 100, Figures: map[string]float64{"join_99": 9, "idle_bytes": 1}, CPU: 1}},
		{{N: 10, Figures: map[string]float64{"join_99": 5}}, {N: 100, Figures: map[string]float64{"join_99": 7}, CPU: 2}},
	} {
		if err := write(dir, part); err != nil {
			t.Fatal(err)
		}
	}
	all, err := merged(filepath.Join(dir, "gossip.json"), nil)
	if err != nil || len(all) != 2 || all[0].N != 10 || all[1].Figures["join_99"] != 7 || all[1].Figures["idle_bytes"] != 1 || all[1].CPU != 3 {
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
	if err := fits(1_000_000); err == nil || !strings.Contains(err.Error(), "at most") {
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
