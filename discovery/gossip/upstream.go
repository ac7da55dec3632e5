package gossip

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/intramesh/mesh/discovery/gossip/internal/observe"
	"github.com/intramesh/mesh/discovery/gossip/internal/transport"
)

const (
	// silence is how long a member may say nothing that is observed through: it has crashed, is frozen, or cut off.
	silence = 4 * beatGap
	// tenure is about how long one member is observed through: others get their turn, and nobody decides for ever what is seen.
	tenure = 15 * time.Minute
	// spread is how many members a pool has whose seeds are only asked for others to observe through: all come by the seeds first.
	spread = 16
	// openTimeout bounds connecting to a member. It leaves room for the first packet to be lost once.
	openTimeout = 2500 * time.Millisecond
	// firstPause is the time between the first attempts to find somebody; it grows to Config.RejoinInterval.
	firstPause = 100 * time.Millisecond
)

var (
	errNoRoom  = errors.New("gossip: the member serves as many observers as it may")
	errNobody  = errors.New("gossip: nobody to observe through is known")
	errAround  = errors.New("gossip: the member was asked for others")
	errNoHello = errors.New("gossip: the member does not say hello")
)

func newObserver(m *Observer) *observer {
	o := &observer{
		m: m, p: m.pool, interests: make(map[string]*interest), claims: make(map[string]*claim),
		greeted: make(chan struct{}), alone: time.Now(),
	}
	for i := range o.up {
		o.up[i].wake = make(chan struct{}, 1)
	}
	return o
}

// keep observes through one member after the other until ctx is done. It keeps upstream i.
func (o *observer) keep(ctx context.Context, i int) {
	var s search
	pause := firstPause
	for attempt := 0; ctx.Err() == nil; attempt++ {
		addrs, seeds := o.choose(ctx, i, attempt, &s)
		since, err := time.Now(), errNobody
		if len(addrs) > 0 {
			err = o.through(ctx, i, addrs[0])
		}
		now := time.Now()
		if ctx.Err() != nil {
			return
		}
		if now.Sub(since) > openTimeout+silence {
			s.failed, attempt, pause = nil, -1, firstPause // it worked: the next one at once
			continue
		}
		if errors.Is(err, errAround) {
			continue
		}
		s.note(addrs, []error{err})
		o.setCrowded(err, now)
		o.m.cfg.Logger.Debug("gossip: can't observe through a member", "addr", addrs, "error", err)
		if o.isBlind() {
			o.m.alone.failed(now, s.errors(seeds), o.m.cfg.Logger)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)): //nolint:gosec // jitter, not a secret
		case <-ctx.Done():
		}
		if pause = min(2*pause, o.m.cfg.RejoinInterval); len(addrs) > 0 && s.failed[addrs[0]].times < 2 {
			pause = min(pause, time.Second) // there may be others to try
		}
	}
}

// choose returns a member that upstream i could be, one that has failed least. Seeds come first, since they were configured, and every
// third time after that.
func (o *observer) choose(ctx context.Context, i, attempt int, s *search) (addrs []netip.AddrPort, seeds []found) {
	known := o.known()
	var lists [][]ranked
	if attempt%3 == 2 || i == 0 && o.isNew() || len(known) == 0 {
		seeds = lookUp(ctx, o.m.cfg.Resolver, o.m.cfg.Seeds)
		for _, f := range seeds {
			lists = append(lists, f.addrs)
		}
	}
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	taken := make(map[netip.AddrPort]bool)
	for j, u := range o.up {
		if j != i {
			taken[u.addr], taken[u.trying] = true, true
		}
	}
	addrs = s.pick(lists, taken)
	if len(addrs) == 0 {
		addrs = s.pick([][]ranked{known}, taken)
	}
	o.up[i].trying = netip.AddrPort{}
	if len(addrs) > 0 {
		addrs, o.up[i].trying = addrs[:1], addrs[0]
	}
	return addrs, seeds
}

// asksAround reports whether this is the first member that was reached. The next one is another.
func (o *observer) asksAround() bool {
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	first := !o.asked
	o.asked = true
	return first
}

// isNew reports whether no member was reached yet.
func (o *observer) isNew() bool {
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	return o.size == 0 && !o.asked
}

// known are the members that were told of, those of services that are looked up, and those remembered, in any order.
func (o *observer) known() []ranked {
	all := o.m.peers.anyOrder()
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	for _, u := range o.up {
		for _, f := range u.peers {
			all = append(all, ranked{f.Addr, 0})
		}
	}
	for _, m := range o.p.members {
		if !m.dead {
			all = append(all, ranked{m.at.addr(), 0})
		}
	}
	rand.Shuffle(len(all), func(a, b int) { all[a], all[b] = all[b], all[a] }) //nolint:gosec // any order will do
	return all
}

// setCrowded notes when a member had no room last.
func (o *observer) setCrowded(err error, now time.Time) {
	if errors.Is(err, errNoRoom) {
		o.p.mu.Lock()
		defer o.p.mu.Unlock()
		o.crowded = now
	}
}

func (o *observer) isBlind() bool {
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	return o.blind()
}

// through observes through the member at addr until it fails or its time is over.
func (o *observer) through(ctx context.Context, i int, addr netip.AddrPort) error {
	opening, opened := context.WithTimeout(ctx, openTimeout)
	conn, err := o.m.cfg.dialer().Open(opening, addr.String(), transport.ALPNObserve)
	opened()
	if err != nil {
		return err
	}
	defer conn.Close()
	c, ok := conn.(*tls.Conn)
	if !ok {
		return errors.New("gossip: the pool has no identities")
	}
	ctx, cancel := context.WithTimeout(ctx, tenure/2+rand.N(tenure)) //nolint:gosec // jitter, not a secret
	var writer sync.WaitGroup
	defer writer.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	r, buf := bufio.NewReader(c), make([]byte, observe.MaxFrame)
	checked, connected := time.Now(), false
	for {
		if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		f, err := observe.Read(r, buf)
		if err != nil {
			return err
		}
		if !connected {
			if f.Kind != observe.Hello {
				return errNoHello
			}
			if f.Full {
				o.sentAway(i, c, r, buf)
				return errNoRoom
			}
			if f.Members > spread && o.asksAround() {
				o.sentAway(i, c, r, buf)
				return errAround
			}
			connected = true
			o.connected(i, addr)
			defer func() { o.lost(i, time.Now()) }()
			wake := o.up[i].wake
			writer.Go(func() { o.ask(ctx, i, c, wake) })
		}
		now := time.Now()
		if now.Sub(checked) >= doubtGap {
			if err := o.p.doubt(c); err != nil {
				return err
			}
			checked = now
		}
		o.p.mu.Lock()
		if f.Kind == observe.Hello {
			o.hello(int(f.Members))
		}
		o.take(i, f, now)
		if r.Buffered() == 0 && o.up[i].answering == "" {
			o.flush()
		}
		o.p.mu.Unlock()
	}
}

// hello notes how large the pool is said to be. p.mu is held.
func (o *observer) hello(members int) {
	if o.size == 0 {
		close(o.greeted)
	}
	o.size = max(1, members)
}

// sentAway takes in whom a member names to turn to.
func (o *observer) sentAway(i int, c *tls.Conn, r *bufio.Reader, buf []byte) {
	_ = c.SetReadDeadline(time.Now().Add(time.Second)) // or it was closed
	for more := true; more; more = r.Buffered() > 0 {
		f, err := observe.Read(r, buf)
		if err != nil || f.Kind != observe.Peer {
			break
		}
		o.p.mu.Lock()
		o.take(i, f, time.Now())
		o.p.mu.Unlock()
	}
}

// ask writes what upstream i is asked, and that we live.
func (o *observer) ask(ctx context.Context, i int, conn *tls.Conn, wake <-chan struct{}) {
	beat := time.NewTicker(askGap)
	defer beat.Stop()
	for {
		var b []byte
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			b = observe.Frame{Kind: observe.Beat}.Append(nil)
		case <-wake:
			b = o.questions(i)
		}
		err := conn.SetWriteDeadline(time.Now().Add(tellTimeout))
		if err == nil {
			_, err = conn.Write(b)
		}
		if err != nil {
			_ = conn.Close() // the reader sees it
			return
		}
	}
}

// questions returns what there is to ask upstream i.
func (o *observer) questions(i int) (b []byte) {
	o.p.mu.Lock()
	defer o.p.mu.Unlock()
	u := &o.up[i]
	for _, service := range u.drops {
		b = observe.Frame{Kind: observe.Drop, Name: service}.Append(b)
	}
	for _, service := range u.asks {
		if o.interests[service] != nil {
			b = observe.Frame{Kind: observe.Want, Name: service, Digest: o.digest(u, service)}.Append(b)
		}
	}
	u.drops, u.asks = nil, nil
	return b
}
