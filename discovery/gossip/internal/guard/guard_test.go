package guard_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery/gossip/internal/attack"
	"github.com/intramesh/mesh/discovery/gossip/internal/guard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var evil = netip.MustParseAddrPort("10.6.6.6:7946")

// newGuard is that of the member "me" at 10.0.0.1, which knows "victim" and "other".
func newGuard(t testing.TB) *guard.Guard {
	t.Helper()
	g := guard.New(guard.Config{
		Name: "me", Addr: netip.MustParseAddrPort("10.0.0.1:7946"), Versions: attack.Versions(),
		Logger: slog.New(slog.DiscardHandler),
	})
	for name, addr := range map[string][]byte{"victim": attack.Victim(), "other": {10, 0, 0, 3}} {
		if len(g.Packet(alive(name, 7, addr), evil)) != 1 {
			t.Fatal("an honest message is refused")
		}
	}
	return g
}

func alive(name string, incarnation int, addr []byte) []byte {
	return attack.Message(attack.Alive, "Incarnation", incarnation, "Node", name, "Addr", addr, "Port", 7946,
		"Meta", []byte("record"), "Vsn", attack.Versions())
}

func TestAttacksAreRefused(t *testing.T) {
	for _, a := range attack.All("victim", "other") {
		if a.Plausible {
			continue
		}
		g := newGuard(t)
		empty, err := g.Stream(attack.Exchange(0), true, evil)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i, p := range a.Packets {
			size += len(p)
			if got := g.Packet(p, evil); len(got) > 0 {
				t.Errorf("%s: packet %d passes as %q", a.Name, i, got)
			}
		}
		for i, s := range a.Streams {
			size += 2 * len(s)
			for _, request := range []bool{true, false} {
				if got, err := g.Stream(s, request, evil); err == nil && !bytes.HasSuffix(got, empty) { // an exchange or a push of nobody
					t.Errorf("%s: stream %d passes as %q", a.Name, i, got)
				}
			}
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(64<<10+4*size) {
			t.Errorf("%s: %d bytes cost %d bytes of memory", a.Name, size, n)
		}
	}
}

func TestHonestMessagesPass(t *testing.T) {
	g := newGuard(t)
	source := []any{"SourceAddr", attack.Victim(), "SourcePort", 7946, "SourceNode", "victim"}
	honest := [][]byte{
		attack.Message(attack.Ping, append([]any{"SeqNo", 1, "Node", "me"}, source...)...),
		attack.Message(attack.IndirectPing, append([]any{
			"SeqNo", 1, "Target", []byte{10, 0, 0, 3}, "Port", 7946, "Node", "other", "Nack", true,
		}, source...)...),
		attack.Message(attack.AckResp, "SeqNo", 1, "Payload", []byte{}),
		attack.Message(attack.NackResp, "SeqNo", 1),
		attack.Message(attack.Suspect, "Incarnation", 1, "Node", "victim", "From", "other"),
		attack.Message(attack.Dead, "Incarnation", 1, "Node", "victim", "From", "other"),
		alive("victim", 8, attack.Victim()),
		alive("new", 1, []byte{10, 0, 0, 9}),
	}
	for _, m := range honest {
		got := g.Packet(m, evil)
		if len(got) != 1 || got[0][0] != m[0] {
			t.Errorf("%q passes as %q", m, got)
			continue
		}
		if again := g.Packet(got[0], evil); len(again) != 1 || !bytes.Equal(again[0], got[0]) {
			t.Errorf("%q passes as %q", got[0], again)
		}
	}
	crc := append([]byte{attack.HasCRC, 0, 0, 0, 0}, attack.Pack(honest...)...)
	if got := g.Packet(crc, evil); len(got) != len(honest) {
		t.Errorf("of %d packed messages %d pass", len(honest), len(got))
	}
	spoiled := attack.Pack(honest[0], []byte{attack.Compressed}, honest[6])
	if got := g.Packet(spoiled, evil); len(got) != 2 {
		t.Errorf("of 2 good messages %d pass", len(got))
	}
	exchange := attack.Exchange(2,
		attack.State("victim", attack.Victim(), []byte("record"), attack.Versions(), 9, 0),
		attack.State("new", []byte{10, 0, 0, 9}, nil, attack.Versions(), 9, 2))
	for _, request := range []bool{true, false} {
		got, err := g.Stream(exchange, request, evil)
		if err != nil {
			t.Error(err)
		}
		if again, err := g.Stream(got, request, evil); err != nil || !bytes.Equal(got, again) {
			t.Errorf("%q passes as %q, %v", got, again, err)
		}
	}
	for request, m := range map[bool][]byte{true: honest[0], false: honest[2]} {
		if _, err := g.Stream(m, request, evil); err != nil {
			t.Errorf("%q: %v", m, err)
		}
		if _, err := g.Stream(m, !request, evil); err == nil {
			t.Errorf("%q passes in the wrong direction", m)
		}
	}
}

func TestNameIsBoundToAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t)
		moved := alive("victim", 100, attack.Attacker())
		if len(g.Packet(moved, evil)) > 0 || len(g.Packet(alive("me", 100, attack.Attacker()), evil)) > 0 {
			t.Error("a member can be moved")
		}
		<-time.After(time.Hour)
		g.Packet(alive("someone", 1, []byte{10, 0, 0, 9}), evil) // what is stale goes when something comes
		if len(g.Packet(moved, evil)) != 1 {
			t.Error("a name is bound for ever")
		}
	})
}

func TestMembersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t)
		passed := 0
		for i := range guard.MaxMembers + 100 {
			passed += len(g.Packet(alive(fmt.Sprint("x", i), 1, []byte{10, 1, byte(i >> 8), byte(i)}), evil))
		}
		if passed != guard.MaxMembers-2 {
			t.Errorf("%d new members pass", passed)
		}
		<-time.After(time.Hour)
		if len(g.Packet(alive("late", 1, []byte{10, 0, 0, 9}), evil)) != 1 {
			t.Error("the pool is full for ever")
		}
	})
}

// A member can always refute the highest accusation that is let through, soon.
func TestRefutationsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuard(t)
		accuse := func(incarnation int) bool {
			return len(g.Packet(attack.Message(attack.Dead, "Incarnation", incarnation, "Node", "victim", "From", "other"), evil)) == 1
		}
		<-time.After(time.Until(time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)))
		highest := 0
		for step := 1 << 31; step > 0; step /= 2 {
			if accuse(highest + step) {
				highest += step
			}
		}
		if highest == 0 || highest > 1<<30 {
			t.Errorf("accusations pass up to %d", highest)
		}
		if len(g.Packet(alive("victim", highest+1, attack.Victim()), evil)) != 1 {
			t.Errorf("a refutation at %d does not pass", highest+1)
		}
		<-time.After(time.Second)
		if !accuse(highest + 1) {
			t.Error("the limit does not grow")
		}
	})
}

func FuzzPacket(f *testing.F) {
	for _, a := range attack.All("victim", "other") {
		for _, p := range a.Packets {
			f.Add(p)
		}
	}
	f.Add(alive("victim", 8, attack.Victim()))
	g := newGuard(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range g.Packet(b, evil) {
			if again := g.Packet(m, evil); len(again) != 1 || !bytes.Equal(again[0], m) {
				t.Errorf("%q passes as %q", m, again)
			}
		}
	})
}

func FuzzStream(f *testing.F) {
	for _, a := range attack.All("victim", "other") {
		for _, s := range a.Streams {
			f.Add(s, true)
		}
	}
	f.Add(attack.Exchange(1, attack.State("victim", attack.Victim(), nil, attack.Versions(), 9, 0)), false)
	g := newGuard(f)
	f.Fuzz(func(t *testing.T, b []byte, request bool) {
		m, err := g.Stream(b, request, evil)
		if err != nil {
			return
		}
		if again, err := g.Stream(m, request, evil); err != nil || !bytes.Equal(again, m) {
			t.Errorf("%q passes as %q, %v", m, again, err)
		}
	})
}

func BenchmarkPacket(b *testing.B) {
	g := newGuard(b)
	p := attack.Pack(alive("victim", 8, attack.Victim()), alive("other", 8, []byte{10, 0, 0, 3}))
	b.ReportAllocs()
	for b.Loop() {
		g.Packet(p, evil)
	}
}
