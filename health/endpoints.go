package health

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
)

// A Prober says how the instances of a service are asked; what is dialed is as in [mesh.Mesh.Dial]. It is called once and returns what
// begins to ask the instance at an address: that does not block, and connects by [mesh.Mesh.DialEndpoint], so that
// what answers has shown the service's certificate.
type Prober func(m *mesh.Mesh, address string) (open func(addr netip.AddrPort) Probe, err error)

// A Probe asks one instance how it is. Its methods are called one at a time.
type Probe interface {
	// Check is a [Check]. A [*mesh.DeniedError] says nothing of the instance's health.
	Check(ctx context.Context) error
	// Close lets go of connections.
	Close()
}

// Connect asks instances by connecting to them, for ports that speak neither HTTP nor gRPC. To one that was dialed lately that takes a
// message, else a handshake; the application there sees a connection that ends at once.
func Connect(m *mesh.Mesh, address string) (func(netip.AddrPort) Probe, error) {
	return func(addr netip.AddrPort) Probe { return connector{m, address, addr} }, nil
}

type connector struct {
	mesh    *mesh.Mesh
	address string
	addr    netip.AddrPort
}

func (c connector) Check(ctx context.Context) error {
	conn, err := c.mesh.DialEndpoint(ctx, c.address, c.addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (connector) Close() {}

// Endpoints asks each instance that takes traffic of what is dialed by the address, in turn, spread over the Interval. Those that are
// found ill are used only while nothing better is left, by Dial, HTTP and gRPC alike, until they are found well. A denial is no
// illness; it is logged. Checking ends with m, or by stop, which waits for the checks under way and takes back what was found. The
// error says what is wrong with the address or the prober.
func Endpoints(m *mesh.Mesh, address string, p Prober, cfg Config) (stop func(), err error) {
	service, port, err := mesh.ParseAddress(address)
	if err != nil {
		return nil, fmt.Errorf("health: %w", err)
	}
	open, err := p(m, address)
	if err != nil {
		return nil, err
	}
	c := &checker{
		mesh: m, service: service, port: port, open: open, cfg: cfg.defaulted(), asked: make(map[key]*asked), outcomes: make(chan outcome),
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.run(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}, nil
}

// A checker asks the instances of one service. All but the checks themselves happens in run.
type checker struct {
	mesh          *mesh.Mesh
	service, port string
	open          func(netip.AddrPort) Probe
	cfg           Config

	asked    map[key]*asked
	changed  <-chan struct{} // of discovery
	favour   bool            // the next turn is for one in doubt
	denied   time.Time       // when a denial was logged
	busy     int
	outcomes chan outcome
}

// tellAgain is how often denied checks are logged.
const tellAgain = 10 * time.Minute

type key struct {
	instance string
	addr     netip.AddrPort
}

// asked is an instance.
type asked struct {
	verdict
	ep         discovery.Endpoint
	probe      Probe
	last       time.Time
	busy, gone bool
}

type outcome struct {
	of  *asked
	err error
}

func (c *checker) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer c.end()
	defer cancel()
	c.look()
	turn := time.NewTimer(c.pause())
	defer turn.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.mesh.Done():
			return
		case o := <-c.outcomes:
			c.judge(o)
		case <-turn.C:
			select {
			case <-c.changed:
				c.look()
			default:
			}
			if a := c.next(time.Now()); a != nil {
				c.ask(ctx, a)
			}
			turn.Reset(c.pause())
		}
	}
}

// pause is the time to the next check.
func (c *checker) pause() time.Duration {
	return jitter(max(c.cfg.Interval/time.Duration(max(len(c.asked), 1)), time.Second/time.Duration(c.cfg.Rate)))
}

// look takes in what discovery says.
func (c *checker) look() {
	snap := c.mesh.Discovery().Lookup(c.service)
	c.changed = snap.Changed
	there := make(map[key]bool)
	for _, ep := range snap.Endpoints {
		if ep.Port != c.port || ep.State != discovery.Ready {
			continue
		}
		k := key{ep.Instance, ep.Addr}
		there[k] = true
		if c.asked[k] == nil {
			c.asked[k] = &asked{ep: ep, probe: c.open(ep.Addr), verdict: verdict{proven: true}}
		}
	}
	for k, a := range c.asked {
		if !there[k] {
			delete(c.asked, k)
			if a.gone = true; !a.busy {
				a.probe.Close()
			}
		}
	}
}

// next is whose turn it is: the one that was asked longest ago, but every other time one in doubt that was not asked for an Interval,
// if there is any. So those are asked as often as they should when all can't be.
func (c *checker) next(now time.Time) *asked {
	c.favour = !c.favour
	var oldest, doubtful *asked
	for _, a := range c.asked {
		if a.busy {
			continue
		}
		if oldest == nil || a.last.Before(oldest.last) {
			oldest = a
		}
		if (a.ill || a.streak > 0) && now.Sub(a.last) >= c.cfg.Interval && (doubtful == nil || a.last.Before(doubtful.last)) {
			doubtful = a
		}
	}
	if c.favour && doubtful != nil {
		return doubtful
	}
	return oldest
}

func (c *checker) ask(ctx context.Context, a *asked) {
	a.busy, a.last = true, time.Now()
	c.busy++
	go func() { c.outcomes <- outcome{a, within(ctx, c.cfg.Timeout, a.probe.Check)} }() // end waits for it
}

func (c *checker) judge(o outcome) {
	a := o.of
	c.busy--
	a.busy = false
	if a.gone {
		a.probe.Close()
		return
	}
	denied, isDenied := errors.AsType[*mesh.DeniedError](o.err)
	if isDenied && (c.denied.IsZero() || time.Since(c.denied) > tellAgain) {
		c.denied = time.Now()
		c.mesh.Logger().Warn("the rules deny health checks: they tell only who can be reached", "service", c.service, "addr", a.ep.Addr, "error", denied)
	}
	news := a.take(o.err == nil || isDenied, &c.cfg)
	if a.ill || news {
		c.mesh.Avoid(a.ep, a.ill) // also when it is not news: the balancer may have forgotten it meanwhile
	}
	switch {
	case news && a.ill:
		c.mesh.Logger().Warn("an instance is ill: its health check fails", "service", c.service, "addr", a.ep.Addr, "times", c.cfg.Fall, "error", o.err)
	case news:
		c.mesh.Logger().Info("an instance is well again", "service", c.service, "addr", a.ep.Addr)
	}
}

// end waits for what is under way, and leaves no trace.
func (c *checker) end() {
	for ; c.busy > 0; c.busy-- {
		if o := <-c.outcomes; o.of.gone {
			o.of.probe.Close()
		}
	}
	for _, a := range c.asked {
		a.probe.Close()
		if a.ill {
			c.mesh.Avoid(a.ep, false)
		}
	}
}
