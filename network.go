package mesh

import (
	"context"
	"net"
)

// A Network makes the connections that TLS runs on. The zero Config uses the operating
// system's, and Unix sockets within a host; meshtest uses one in memory. It is safe for concurrent use.
type Network interface {
	// DialContext connects to a "host:port"; network is "tcp".
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// Listen opens a listener; network is "tcp", "tcp4" or "tcp6".
	Listen(ctx context.Context, network, address string) (net.Listener, error)
}

// systemNetwork is the operating system's.
type systemNetwork struct {
	net.Dialer
	net.ListenConfig
}
