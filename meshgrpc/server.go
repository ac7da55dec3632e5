package meshgrpc

import (
	"time"

	"github.com/intramesh/mesh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// NewServer returns a server for a listener of m's default port: a gRPC server with
// [ServerOptions], and the standard health service, which answers NOT_SERVING once m drains or is
// closed. For another port, or a health service of its own, an application uses grpc.NewServer
// with ServerOptions, and [RegisterHealth].
//
// To leave without failing a call, use GracefulStop, then [mesh.Mesh.Shutdown]: the mesh waits for
// the server's connections, and only the server can end them in good order.
func NewServer(m *mesh.Mesh, opts ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(append(ServerOptions(m), opts...)...)
	RegisterHealth(s, m)
	return s
}

// What one connection can hold of a server. gRPC's defaults are 2³² calls with 16 MiB of metadata each.
const (
	maxCalls    = 4096
	maxMetadata = 64 << 10
	// prefaceTimeout bounds the beginning of HTTP/2; the handshake is over by then.
	prefaceTimeout = 10 * time.Second
)

// Windows of HTTP/2 are as large as net/http's for a stream: what a peer may send ahead of whoever reads it. The connection's is given back as data
// comes in. Those that gRPC sizes by itself take a PING and its answer beside the data of nearly every small call, and
// let a fast peer have 16 MiB in each stream.
const (
	serverWindow = 1 << 20
	clientWindow = 4 << 20
	connWindow   = 16 << 20
)

// workers take turns, so that the stacks of more than are needed would be in nobody's cache.
const workers = 32

// ServerOptions returns what makes grpc.NewServer serve listeners of m for these named ports, of
// which none means the default one. The server takes connections of such listeners alone,
// and each call is decided by the rules before any method or later interceptor sees it. An
// interceptor given with grpc.UnaryInterceptor or grpc.StreamInterceptor runs before that
// decision; one given with their Chain forms, later in the list, after it.
//
// The ports are passed on to [mesh.Mesh.DeferToRequests]: whatever else serves them must decide
// requests as well.
//
// A call that the rules no longer allow ends at once with PERMISSION_DENIED: its context is
// cancelled, and no further message passes. The options also replace the handler for unknown
// methods, so that only those who may call a method learn that it isn't there. One connection carries 4,096 calls at once at
// most, each with 64 KiB of metadata at most, and with 1 MiB of messages that the method has not asked for yet.
//
// Calls run on 32 goroutines that are used again, where each would have to grow the stack of a new one, and on new ones while those
// are busy. They end when the server is stopped. A method that changes its goroutine for good, by runtime.LockOSThread for example,
// needs grpc.NumStreamWorkers(0).
func ServerOptions(m *mesh.Mesh, ports ...string) []grpc.ServerOption {
	m.DeferToRequests(ports...)
	a := authorizer{m}
	return []grpc.ServerOption{
		grpc.Creds(transportCredentials{}),
		grpc.ChainUnaryInterceptor(a.unary),
		grpc.ChainStreamInterceptor(a.stream),
		grpc.UnknownServiceHandler(unknownMethod),
		grpc.ConnectionTimeout(prefaceTimeout),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.MaxHeaderListSize(maxMetadata),
		grpc.StaticStreamWindowSize(serverWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.NumStreamWorkers(workers),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 2}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 3 * pingAfter, Timeout: pingTimeout}),
	}
}

func unknownMethod(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	return status.Errorf(codes.Unimplemented, "unknown method %s", method)
}
