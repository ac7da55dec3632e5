package meshgrpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/intramesh/mesh"
	"google.golang.org/grpc/credentials"
)

// alpn is the application protocol of gRPC, RFC 9113.
const alpn = "h2"

// AuthInfo tells who is at the other end of a connection: on a client, in what the call option
// grpc.Peer fills in. A server's methods have [mesh.PeerFromContext].
type AuthInfo struct {
	credentials.CommonAuthInfo
	// Peer is the verified peer.
	Peer mesh.Peer
}

// AuthType returns "mesh".
func (AuthInfo) AuthType() string { return "mesh" }

// transportCredentials takes over the handshake that the mesh has made. It fails for connections
// of any other origin, so that nothing is ever served or sent unverified.
type transportCredentials struct{}

var errForeign = errors.New("meshgrpc: the connection is not one of the mesh: serve a listener of mesh.Listen")

func (transportCredentials) authInfo(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	peer, ok := mesh.PeerFromConn(c)
	if !ok {
		return nil, nil, errForeign
	}
	t, ok := c.(*tls.Conn)
	if !ok || t.ConnectionState().NegotiatedProtocol != alpn {
		return nil, nil, fmt.Errorf("meshgrpc: %s did not agree to speak HTTP/2", peer)
	}
	return conn{t}, AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Peer:           peer,
	}, nil
}

// closeWait is how long a peer has to take the goodbye.
const closeWait = time.Second

// Before it writes less than minYield, gRPC lets goroutines that are ready to run have their turn: what they have to send goes out with
// it, by one system call. A message of 1 KiB is above that, so that each had a write of its own. From maxYield on there are several records
// anyway.
const (
	minYield = 1000
	maxYield = 16 << 10
)

// conn gives way before it writes, and closes in bounded time. TLS would wait for ever for a peer that has keys updated and takes no
// answer: its reader holds then what Close needs to say goodbye.
type conn struct{ *tls.Conn }

func (c conn) Write(p []byte) (int, error) {
	if len(p) >= minYield && len(p) < maxYield {
		runtime.Gosched()
	}
	return c.Conn.Write(p)
}

func (c conn) Close() error {
	hard := time.AfterFunc(closeWait, func() { _ = c.NetConn().Close() })
	defer hard.Stop()
	return c.Conn.Close()
}

func (tc transportCredentials) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return tc.authInfo(c)
}

func (tc transportCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return tc.authInfo(c)
}

func (transportCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (tc transportCredentials) Clone() credentials.TransportCredentials { return tc }

// OverrideServerName does nothing: the name that is verified is the target's.
func (transportCredentials) OverrideServerName(string) error { return nil }
