package meshgrpc

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/balance"
	"github.com/intramesh/mesh/discovery"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

// balancerName is what a service config calls the balancer below.
const balancerName = "intramesh_balance"

// gRPC finds balancers in a global registry only, which may be written to only during
// initialisation.
func init() { //nolint:gochecknoinits // see above
	balancer.Register(balancerBuilder{})
}

type balancerBuilder struct{}

func (balancerBuilder) Name() string { return balancerName }

func (balancerBuilder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	b := &meshBalancer{ClientConn: cc}
	return endpointsharding.NewBalancer(b, opts, balancer.Get(pickfirst.Name).Build,
		endpointsharding.Options{DisableAutoReconnect: true})
}

// meshBalancer chooses among connected endpoints with a [mesh.Balancer]. endpointsharding, for which it
// stands in as the channel, connects to them.
//
// It differs from gRPC's own balancers in one more way: a connection that was closed is made again
// when there is a call, not at once. Otherwise a client that the rules refuse would come back as
// often as the server shuts the door, although nobody calls.
type meshBalancer struct {
	balancer.ClientConn

	outcomes sync.Pool // of *outcome
}

// UpdateState is called, one call at a time, when a connection changes state or discovery does.
func (b *meshBalancer) UpdateState(s balancer.State) {
	p := &picker{ready: make(map[mesh.EndpointKey]*endpoint), outcomes: &b.outcomes}
	var ready []discovery.Endpoint
	var endpoints []*endpoint
	var idle []func()
	for _, c := range endpointsharding.ChildStatesFromPicker(s.Picker) {
		switch c.State.ConnectivityState {
		case connectivity.Ready:
			to, _ := c.Endpoint.Attributes.Value(calleeKey{}).(callee)
			p.set = to.set // the same for all
			ready = append(ready, known(c.Endpoint))
			endpoints = append(endpoints, &endpoint{c.State.Picker, to, known(c.Endpoint).Addr})
		case connectivity.Idle:
			idle = append(idle, c.ExitIdle)
		}
	}
	if p.set != nil {
		for i, key := range p.set.Update(ready) {
			p.ready[key] = endpoints[i]
		}
	}
	if len(ready)+len(idle) > 0 {
		p.wake = sync.OnceFunc(func() {
			for _, connect := range idle {
				connect()
			}
		})
		s.Picker = p
	}
	b.ClientConn.UpdateState(s)
}

// endpointKey is the attribute of a resolver.Endpoint that holds what discovery said of it.
type endpointKey struct{}

func known(e resolver.Endpoint) discovery.Endpoint {
	known, _ := e.Attributes.Value(endpointKey{}).(discovery.Endpoint)
	return known
}

type picker struct {
	set   *mesh.Balancer // of connected endpoints; nil while there are none
	ready map[mesh.EndpointKey]*endpoint
	wake  func() // connects the idle ones

	outcomes *sync.Pool
}

// endpoint is one that is connected.
type endpoint struct {
	balancer.Picker
	callee
	addr netip.AddrPort
}

func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	p.wake()
	if p.set == nil {
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	use, ok := p.set.Pick()
	if !ok {
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	one, ok := p.ready[use.Key]
	if !ok {
		// The set is newer than this picker: the next one is on its way.
		use.Done()
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	if denied := one.early(info); denied != nil {
		use.Done()
		return balancer.PickResult{}, denied
	}
	res, err := one.Pick(info)
	if err != nil {
		use.Done()
		return res, err
	}
	o, _ := p.outcomes.Get().(*outcome)
	if o == nil {
		o = &outcome{outcomes: p.outcomes}
		o.done = o.end
	}
	o.use, o.to, o.ctx, o.start, o.inner = use, one, info.Ctx, time.Now(), res.Done
	res.Done = o.done
	return res, nil
}

// outcome is told how a call ended, and then is another call's: gRPC tells it once (balancer.PickResult). A closure for each call would
// be an allocation for each.
type outcome struct {
	use      balance.Picked[mesh.EndpointKey]
	to       *endpoint
	ctx      context.Context //nolint:containedctx // the call's, for as long as it takes
	start    time.Time
	inner    func(balancer.DoneInfo) // of the picker for one endpoint; may be nil
	done     func(balancer.DoneInfo) // is end
	outcomes *sync.Pool
}

func (o *outcome) end(di balancer.DoneInfo) {
	report(&o.use, di, latency(o.ctx, o.start))
	o.to.refused(di.Err)
	o.use.Done()
	if o.inner != nil {
		o.inner(di)
	}
	o.use, o.to, o.ctx, o.inner = balance.Picked[mesh.EndpointKey]{}, nil, nil, nil
	o.outcomes.Put(o)
}

// streamKey marks the context of a streaming call.
type streamKey struct{}

// latency is how long a call took; of a stream that says nothing about the endpoint.
func latency(ctx context.Context, start time.Time) time.Duration {
	if ctx.Value(streamKey{}) != nil {
		return 0
	}
	return time.Since(start)
}

// report tells the set how a call ended.
func report(use *balance.Picked[mesh.EndpointKey], di balancer.DoneInfo, took time.Duration) {
	switch status.Code(di.Err) {
	case codes.OK, codes.NotFound, codes.AlreadyExists, codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.Aborted:
		use.Succeeded(took)
	case codes.Canceled:
		// The caller's doing.
	case codes.Unavailable:
		if !di.BytesReceived {
			use.Failed()
			return
		}
		use.Rejected(took)
	default:
		use.Rejected(took)
	}
}
