package attacks

import (
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/policy"
)

// An attack is a row of the table.
type attack struct {
	name string
	on   string // the columns that it makes sense for, all if empty
	// who attacks: as allowed and as denied if empty.
	who []string
	// refused says that each connection of the attack has to fail in the handshake.
	refused bool
	// asks says that no rule is about it.
	asks bool
	// times is how many attackers there are, 2 if 0.
	times int
	// holds is what all of them may make the server hold; 0 is the column's limit for each.
	holds uint64
	// real says that it takes real time: what waits for a mutex, such as that of crypto/tls's writers, stops a bubble's clock.
	real bool
	do   func(p *peer)
}

// anonymous is who attacks before anybody knows who it is.
func anonymous() []string { return []string{stranger} }

func table() []attack {
	return slices.Concat(handshakeAttacks(), recordAttacks(), rawAttacks(), http1Attacks(), http2Attacks(), grpcAttacks())
}

// lasts is how long the neighbour goes on calling: by then everything of an attack is disposed of.
const lasts = 3 * time.Minute

// Whatever a peer does, its connections end, and what it makes the server hold is bounded and given back; what it causes is logged at
// a bounded rate; and another one's calls are answered at once, on connections that it has as on new ones.
func TestAttacks(t *testing.T) {
	for _, col := range columns() {
		for _, a := range table() {
			if a.real || a.on != "" && !slices.Contains(strings.Fields(a.on), col.name) {
				continue
			}
			who := a.who
			if who == nil {
				who = []string{allowed, denied}
			}
			for _, w := range who {
				t.Run(col.name+"/"+a.name+"/"+w, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { survive(t, col, &a, w) }) // which ends when all goroutines have
				})
			}
		}
	}
}

func survive(t *testing.T, col column, a *attack, who string) {
	w := newWorld(t, col, nil)
	old, closeOld := w.caller()
	defer closeOld()
	call := func(what string, c *caller) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := col.call(ctx, c, "payments"); err != nil {
			t.Errorf("after %v, a neighbour's call on %s connection: %v", time.Since(w.begun), what, err)
		}
	}
	both := func() {
		t.Helper()
		call("an old", old)
		c, closeNew := w.caller()
		defer closeNew()
		call("a new", c)
	}
	both()
	synctest.Wait()
	before, attackers := liveHeap(), 2
	if a.times > 0 {
		attackers = a.times
	}
	limit := a.holds
	if limit == 0 {
		limit = uint64(attackers)*col.holds + 1<<20
	}
	var wg sync.WaitGroup
	for range attackers {
		wg.Go(func() { (&peer{world: w, who: who}).attack(a.do) })
	}
	for since := time.Duration(0); since < lasts; since += 10 * time.Second {
		synctest.Wait()
		if since%(2*time.Minute) == 0 {
			both()
		} else {
			call("an old", old)
		}
		if since == 0 || since == time.Minute {
			synctest.Wait()
			if now := liveHeap(); now > before+limit {
				t.Errorf("after %v the attack holds %d KiB of at most %d", since, (now-before)>>10, limit>>10)
			}
			if n, most := w.logged.n.Load(), int64(150+20*time.Since(w.begun)/time.Second); n > most {
				t.Errorf("after %v there are %d log records, at most %d expected", since, n, most)
			}
		}
		<-time.After(10 * time.Second)
	}
	wg.Wait()
	synctest.Wait()
	w.disposed(t)
	if n := w.handlers.Load(); n > 0 {
		t.Errorf("%d handlers still run", n)
	}
	if n := w.most.Load(); n > int32(attackers)*col.handlers+1 { // the neighbour's
		t.Errorf("%d handlers ran at once", n)
	}
	s := w.server.Stats()
	if a.refused && s.HandshakesFailed < uint64(attackers) {
		t.Errorf("%d failed handshakes are counted", s.HandshakesFailed)
	}
	if n := s.Decisions[policy.LayerConnection][policy.Deny]; who == denied && !a.asks && n < uint64(attackers) {
		t.Errorf("%d denials are counted", n)
	}
	start := time.Now()
	closeOld()
	_ = w.server.Close()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it takes %v to close", took)
	}
}

// disposed checks that the server has closed every connection of the attackers, and closes them too.
func (w *world) disposed(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	open := 0
	for _, c := range w.conns {
		if !ended(c) {
			open++
		}
		_ = c.Close()
	}
	if open > 0 {
		t.Errorf("%d of %d connections are still open", open, len(w.conns))
	}
}

// ended reports whether the other side has closed c.
func ended(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	b := make([]byte, 64<<10)
	for {
		if _, err := c.Read(b); err != nil {
			return !os.IsTimeout(err)
		}
	}
}
