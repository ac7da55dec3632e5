package attacks

import (
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patient is how long is waited in real time for what takes no time, on a machine that may be busy with other things.
const patient = 3 * time.Minute

// smallBuffer is what the system holds of what nobody reads: an attacker has it full soon.
const smallBuffer = 4 << 10

// sockets is the system's network, which counts what is accepted and not yet closed.
type sockets struct {
	net.Dialer
	open atomic.Int64
}

func (s *sockets) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, network, address)
	return &countingListener{ln, s}, err
}

type countingListener struct {
	net.Listener
	sockets *sockets
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.sockets.open.Add(1)
	_ = c.(*net.TCPConn).SetWriteBuffer(smallBuffer)
	return &countedConn{TCPConn: c.(*net.TCPConn), sockets: l.sockets}, nil
}

type countedConn struct {
	*net.TCPConn
	sockets *sockets
	once    sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.sockets.open.Add(-1) })
	return c.TCPConn.Close()
}

// All attacks at once, over real sockets, while neighbours call without pause. Here are also those that stop a bubble's clock.
func TestAttacksOverSockets(t *testing.T) {
	before := descriptors(t)
	var wg sync.WaitGroup
	for _, col := range columns() {
		w := newWorld(t, col, new(sockets))
		wg.Go(w.survivesAll)
	}
	wg.Wait()
	if after := descriptors(t); after > before+4 { // the runtime's own
		t.Errorf("%d file descriptors were open before, %d are now", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(all)
}

func (w *world) survivesAll() {
	var attackers, neighbours sync.WaitGroup
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	neighbours.Go(func() { w.callsOnAndOn(ctx) })
	few := make(chan struct{}, 16)
	for _, a := range table() {
		if a.on != "" && !slices.Contains(strings.Fields(a.on), w.col.name) {
			continue
		}
		if a.holds == 1100*perConn { // hundreds of handshakes: a busy machine has no time for neighbours then
			continue
		}
		if a.real && w.col.name == "h2" {
			// Where net/http closes a connection while crypto/tls answers a key update that nobody takes, it may wait for ever, unless it has a
			// ping under way: Conn.Close wants the lock that Conn.Read holds (Go 1.26). Mesh.Close ends it.
			continue
		}
		who := a.who
		if who == nil {
			who = []string{allowed, denied}
		}
		for _, who := range who {
			attackers.Go(func() {
				few <- struct{}{}
				defer func() { <-few }()
				p := &peer{world: w, who: who}
				p.attack(a.do)
				if who == denied {
					p.leave() // who is refused over HTTP may stay for a minute
				}
			})
		}
	}
	time.AfterFunc(10*time.Second, func() { close(w.over) })
	attackers.Wait()
	cancel()
	neighbours.Wait()
	// What is left open is the attackers'.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); w.network.(*sockets).open.Load() > 0; <-tick.C {
		if time.Since(begun) > patient {
			w.t.Errorf("%s: %d connections are still open", w.col.name, w.network.(*sockets).open.Load())
			break
		}
	}
	begun := time.Now()
	_ = w.server.Close()
	if took := time.Since(begun); took > patient {
		w.t.Errorf("%s: it takes %v to close", w.col.name, took)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
}

// callsOnAndOn calls until ctx ends, now and then as a new process.
func (w *world) callsOnAndOn(ctx context.Context) {
	for ctx.Err() == nil {
		c, closed := w.caller()
		for range 50 {
			if ctx.Err() != nil {
				break
			}
			within, cancel := context.WithTimeout(context.WithoutCancel(ctx), patient)
			if err := w.col.call(within, c, "payments"); err != nil {
				w.t.Errorf("%s: a neighbour's call: %v", w.col.name, err)
			}
			cancel()
		}
		closed()
	}
}
