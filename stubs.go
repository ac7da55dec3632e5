package mesh

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

type Config struct {
	Service   string
	Bootstrap *Bootstrap
	Identity  identity.Source
	Discovery discovery.Resolver
	Policy    policy.Authorizer
	Advertise string
	StateDir  string
	Zone      string
	Logger    *slog.Logger
	Trace     *Trace
	Network   Network
}

type Mesh struct{}

type Trace struct{}

func Join(ctx context.Context, cfg Config) (*Mesh, error) { panic("stub") }

func (m *Mesh) Dial(ctx context.Context, network, address string) (net.Conn, error) { panic("stub") }

// ListenOptions adjusts one listener.
type ListenOptions struct {
	Port string   // the named port it serves, "" for the default one
	ALPN []string // default h2, http/1.1 and raw
}

// Listen: at most one ListenOptions.
func (m *Mesh) Listen(ctx context.Context, network, address string, opts ...ListenOptions) (net.Listener, error) {
	panic("stub")
}

func (m *Mesh) Transport() http.RoundTripper { panic("stub") }
func (m *Mesh) HTTPClient() *http.Client     { panic("stub") }

// Handler decides each request; it declares that it serves the named ports (default: "").
func (m *Mesh) Handler(h http.Handler, port ...string) http.Handler { panic("stub") }
func (m *Mesh) Shutdown(ctx context.Context) error                  { panic("stub") }
func (m *Mesh) Close() error                                        { panic("stub") }

// ID is this process's own identity now.
func (m *Mesh) ID() spiffeid.ID               { panic("stub") }
func (m *Mesh) Discovery() discovery.Resolver { panic("stub") }
func (m *Mesh) Logger() *slog.Logger          { panic("stub") }

// Done is closed when the mesh is closed.
func (m *Mesh) Done() <-chan struct{} { panic("stub") }

// Draining is closed when Shutdown or Close begins.
func (m *Mesh) Draining() <-chan struct{} { panic("stub") }

// DialEndpoint connects to one known endpoint of a service and checks that the service answers. For adapters
// that balance by themselves (meshgrpc). alpn: application protocols to offer ("h2"); none means raw.
func (m *Mesh) DialEndpoint(ctx context.Context, address string, addr netip.AddrPort, alpn ...string) (net.Conn, error) {
	panic("stub")
}

// DeferToRequests declares that whoever serves the named ports decides each request by Authorize; its
// listeners then admit every peer that some request could be allowed for. For adapters.
func (m *Mesh) DeferToRequests(port ...string) { panic("stub") }

// Authorize decides one request of the peer in ctx; r's Source, SourceAddr, Destination and Port are filled in from
// the connection. Returns nil or *DeniedError.
func (m *Mesh) Authorize(ctx context.Context, r *policy.Request) error { panic("stub") }

// Peer is who is at the other end.
type Peer struct {
	ID     spiffeid.ID
	Addr   netip.AddrPort
	Port   string // named port of ours that it came in by
	Expiry time.Time
}

func (p Peer) Service() string                                    { return identity.ServiceName(p.ID) }
func PeerFromConn(c net.Conn) (Peer, bool)                        { panic("stub") }
func PeerFromContext(ctx context.Context) (Peer, bool)            { panic("stub") }
func ContextWithPeer(ctx context.Context, p Peer) context.Context { panic("stub") }

// DeniedFromResponse returns the denial that a 403 response carries.
func DeniedFromResponse(r *http.Response) (*DeniedError, bool) { panic("stub") }
