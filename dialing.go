package mesh

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/intramesh/mesh/policy"
)

// A dialing is a dial under way. It tries endpoints one after the other; but one that says nothing for long is not waited for alone.
type dialing struct {
	mesh   *Mesh
	ctx    context.Context //nolint:containedctx // of one call
	target target
	alpn   []string
	set    *endpointSet

	race     *race // nil as long as there was no need for a handshake
	tried    []endpoint
	attempts []dialTry     // in the race
	pause    time.Duration // until the next one starts, when none fails
	last     error
}

// A dialTry is the attempt to reach one endpoint.
type dialTry struct {
	picked
	start time.Time
}

// dial connects to the least loaded endpoint that can be reached; no alpn means a raw connection. Until it is closed the connection counts
// as its load.
func (m *Mesh) dial(ctx context.Context, t target, alpn []string) (net.Conn, error) {
	d := dialing{mesh: m, ctx: ctx, target: t, alpn: alpn, set: m.endpoints(ctx, t), pause: silence}
	c, err := d.run()
	if d.race != nil {
		d.race.end(func(which int) { d.lost(which, true) })
	}
	if de, ok := errors.AsType[*DialError](err); ok {
		de.Attempts = len(d.tried)
	}
	return c, err
}

func (d *dialing) run() (net.Conn, error) {
	for more := true; more || d.race != nil && d.race.running > 0; {
		if more && (d.race == nil || d.race.ready()) {
			p, err := d.set.pick(d.tried...)
			if err != nil {
				if more = false; d.race == nil {
					d.last = &DialError{Service: d.target.service, Port: d.target.port, Err: err}
				}
				continue
			}
			if c, err := d.begin(p); c != nil || err != nil {
				return c, err
			}
			more = len(d.tried) < maxAttempts
			continue
		}
		e, ok := d.race.next(more)
		switch {
		case !ok || e.connected:
		case e.err == nil:
			return d.won(e.c, d.attempts[e.which].picked), nil
		default:
			d.last, d.race.due = e.err, time.Time{}
			d.lost(e.which, false)
			more = more && d.ctx.Err() == nil && d.mesh.ctx.Err() == nil
		}
	}
	return nil, d.last
}

// begin begins to connect to an endpoint. It returns a connection if there is one, and an error if the endpoint is sure to give it.
func (d *dialing) begin(p picked) (net.Conn, error) {
	m, t, addr, alpn := d.mesh, d.target, p.Key.addr, d.alpn
	if len(alpn) == 0 {
		if denied := m.early(d.ctx, t, addr, func(*policy.Request) {}); denied != nil {
			p.Done()
			return nil, &DialError{Service: t.service, Port: t.port, Addr: addr.String(), Err: denied}
		}
	}
	start := time.Now()
	if c := m.reuse(d.ctx, t, addr, alpn); c != nil {
		return d.won(c, p), nil
	}
	d.tried = append(d.tried, p.Key)
	if d.race == nil {
		d.race = newRace(d.ctx, maxAttempts)
	}
	d.race.start(len(d.attempts), func(ctx context.Context, _ func()) (net.Conn, error) { return m.connectTo(ctx, t, addr, alpn) })
	d.attempts = append(d.attempts, dialTry{p, start})
	d.race.due = time.Now().Add(d.pause)
	d.pause *= 2
	return nil, nil
}

func (d *dialing) won(c net.Conn, p picked) net.Conn {
	p.Reached(0)
	countUntilClose(c, p)
	return c
}

// lost ends an attempt that failed, or that was broken off.
func (d *dialing) lost(which int, brokenOff bool) {
	a := &d.attempts[which]
	took, ended := time.Since(a.start), d.ctx.Err()
	switch {
	case d.mesh.ctx.Err() != nil:
	case ended == nil && (!brokenOff || took >= silence):
		a.Failed()
	case errors.Is(ended, context.DeadlineExceeded):
		a.Rejected(took) // the caller was in a hurry, or the endpoint hangs
	}
	a.Done()
}
