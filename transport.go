package mesh

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Transport returns the mesh's http.RoundTripper. The host of a URL is the service that is called, and the
// certificate that answers must be that service's: "http://payments/charge". A service name with slashes is written with
// dots, and a named port in front with an underscore, as DNS SRV records have it: "http://_admin.billing.invoices/". The
// scheme is http or https, which is the same: the connection is mTLS.
//
// Each request goes to the endpoint that promises to be done soonest, over HTTP/2 where the server speaks it, else
// over HTTP/1.1, in which requests with an Upgrade header (WebSocket) always go. Where a server speaks both, and is asked often, those
// that may be repeated and have no body also go over HTTP/1.1, which is cheaper while few are under way. A request fails over to another
// endpoint when nothing of it was delivered; a request that net/http calls idempotent (GET, HEAD, OPTIONS, TRACE, or with
// an Idempotency-Key header), whose body is empty or has GetBody, also when its connection broke before the answer. If
// the answer to such a request announces its length, RoundTrip returns when the body begins.
//
// A denial is a response, 403: see [DeniedFromResponse]. What an endpoint denied a moment ago, by rules that are still in force here
// and there, it is not asked again: the response is the same. When no endpoint could be reached the error is a *DialError.
// Unlike http.Transport it does not ask for compression.
//
// All calls return the same value, which also has CloseIdleConnections. [Mesh.Close] closes its connections.
func (m *Mesh) Transport() http.RoundTripper {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.web == nil {
		t := newTransport(m)
		if m.closed {
			t.close()
		}
		m.web, m.closeHTTP = t, t.close
	}
	return m.web.(http.RoundTripper) //nolint:forcetypeassert // nothing else is set
}

// HTTPClient returns a new client on top of [Mesh.Transport], without a timeout.
func (m *Mesh) HTTPClient() *http.Client { return &http.Client{Transport: m.Transport()} }

// transport balances requests over the endpoints of services.
type transport struct {
	dial      func(ctx context.Context, t target, addr netip.AddrPort, alpn []string) (net.Conn, error)
	endpoints func(ctx context.Context, t target) *endpointSet
	// early returns the response that an endpoint is sure to give, nil when it must be asked; refused is told of those that it gave.
	early   func(t target, addr netip.AddrPort, req *http.Request) *http.Response
	refused func(t target, addr netip.AddrPort, resp *http.Response)
	base    *http.Transport // makes http.ClientConns; its own pool stays empty

	peeks sync.Pool // of *[peekSize]byte
	wires sync.Pool // of *wireBuffers

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	pools   map[poolKey]*pool
	sweeper *time.Timer // nil while there are no pools
	watcher *time.Timer // nil while there are no lanes
	closed  bool
}

type poolKey struct {
	target   target
	endpoint endpoint
}

func newTransport(m *Mesh) *transport {
	t := &transport{
		dial:      m.dialEndpoint,
		endpoints: m.endpoints,
		early:     m.earlyResponse,
		refused: func(t target, addr netip.AddrPort, resp *http.Response) {
			if d, ok := DeniedFromResponse(resp); ok {
				m.refusals.add(refuser{t, addr}, d)
			}
		},
		base: &http.Transport{
			DialTLSContext:         dialed,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: maxResponseHeader,
			// Over HTTP/2, a peer that vanished without a word is noticed within 15 seconds.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
		},
		pools: make(map[poolKey]*pool),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	r, err := newRoundTrip(t, req)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	resp, err := r.run()
	if r.body != nil {
		r.body.settle()
		if err != nil {
			_ = r.body.Close()
		}
	}
	return resp, err
}

// CloseIdleConnections closes the connections that no request uses.
func (t *transport) CloseIdleConnections() {
	for _, p := range t.allPools() {
		p.closeIdle(time.Now().Add(time.Hour))
	}
}
