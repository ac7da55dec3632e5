package mesh

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"time"

	"github.com/intramesh/mesh/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A Peer is the verified other end of a connection.
type Peer struct {
	// ID is the SPIFFE ID of its certificate.
	ID spiffeid.ID
	// Addr is its network address.
	Addr netip.AddrPort
	// Port is the named port of ours that it came in by, "" for the default one and for connections that
	// we dialed.
	Port string
	// Expiry is when its certificate chain ends. An accepted connection is closed then.
	Expiry time.Time

	conn  *serverConn // nil for connections that we dialed, and for peers made by hand
	chain []*x509.Certificate
}

// Service returns the peer's service name, the path of its ID.
func (p Peer) Service() string { return identity.ServiceName(p.ID) }

// String returns the peer's SPIFFE ID.
func (p Peer) String() string { return p.ID.String() }

// PeerFromConn returns the verified peer of a connection that [Mesh.Dial] or a mesh listener
// returned. For any other connection, a *tls.Conn of another origin included, it reports false.
func PeerFromConn(c net.Conn) (Peer, bool) {
	n, ok := underTLS(c)
	if !ok || n.peer.ID.IsZero() {
		return Peer{}, false
	}
	return n.peer, true
}

func underTLS(c net.Conn) (*netConn, bool) {
	t, ok := c.(interface{ NetConn() net.Conn })
	if !ok {
		return nil, false
	}
	n, ok := t.NetConn().(*netConn)
	return n, ok
}

type peerKey struct{}

// PeerFromContext returns the caller of the request that ctx belongs to: within a handler that
// [Mesh.Handler] wraps, or a gRPC method behind meshgrpc.
func PeerFromContext(ctx context.Context) (Peer, bool) {
	switch p := ctx.Value(peerKey{}).(type) {
	case Peer:
		return p, true
	case *Peer: // a callContext's
		return *p, true
	}
	return Peer{}, false
}

// ContextWithPeer returns a context in which [PeerFromContext] finds p. Adapters and tests of
// handlers use it.
func ContextWithPeer(ctx context.Context, p Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// addrPort returns the address of a TCP peer, without zone and unmapped.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return netip.AddrPort{}
}
