package meshgrpc

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/internal/claims"
	"github.com/intramesh/mesh/policy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
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

// ServerOptions returns what makes grpc.NewServer serve listeners of m for these named ports, of
// which none means the default one. The server takes connections of such listeners alone,
// and each call is decided by the rules before any method or later interceptor sees it. An
// interceptor given with grpc.UnaryInterceptor or grpc.StreamInterceptor runs before that
// decision; one given with their Chain forms, later in the list, after it.
//
// The ports are passed on to [mesh.Mesh.DeferToRequests]: whatever else serves them must decide
// requests as well. These options replace the handler for unknown methods, so that only those who
// may call a method learn that it isn't there.
func ServerOptions(m *mesh.Mesh, ports ...string) []grpc.ServerOption {
	m.DeferToRequests(ports...)
	a := authorizer{m}
	return []grpc.ServerOption{
		grpc.Creds(transportCredentials{}),
		grpc.ChainUnaryInterceptor(a.unary),
		grpc.ChainStreamInterceptor(a.stream),
		grpc.UnknownServiceHandler(unknownMethod),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter / 2}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 3 * pingAfter, Timeout: pingTimeout}),
	}
}

func unknownMethod(_ any, s grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(s)
	return status.Errorf(codes.Unimplemented, "unknown method %s", method)
}

type authorizer struct{ mesh *mesh.Mesh }

func (a authorizer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	ctx, err := a.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

func (a authorizer) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	ctx, err := a.admit(s.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	return handle(srv, &serverStream{s, ctx})
}

type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *serverStream) Context() context.Context { return s.ctx }

// admit decides a call and returns the context for its method.
func (a authorizer) admit(ctx context.Context, fullMethod string) (context.Context, error) {
	p, _ := peer.FromContext(ctx)
	if p == nil {
		return nil, errUnauthenticated()
	}
	info, ok := p.AuthInfo.(AuthInfo)
	if !ok {
		return nil, errUnauthenticated()
	}
	method, ok := parseMethod(fullMethod)
	if !ok {
		return nil, status.Errorf(codes.Unimplemented, "malformed method name %q", fullMethod)
	}
	ctx, h := incoming(mesh.ContextWithPeer(ctx, info.Peer))
	err := a.mesh.Authorize(ctx, &policy.Request{Layer: policy.LayerGRPC, GRPCMethod: method, Header: h})
	if err == nil {
		return ctx, nil
	}
	var d *mesh.DeniedError
	if !errors.As(err, &d) {
		return nil, status.Error(codes.PermissionDenied, "the call could not be decided")
	}
	// It fails only for a call that is over.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(deniedKey, d.Encode()))
	return nil, newDeniedError(d)
}

func errUnauthenticated() error {
	return status.Error(codes.Unauthenticated, "the connection is not one of the mesh")
}

// parseMethod reads "/pay.v1.Payments/Charge", in this form only: of two spellings of a method
// the rules might know one.
func parseMethod(full string) (string, bool) {
	name, ok := strings.CutPrefix(full, "/")
	service, method, sep := strings.Cut(name, "/")
	ok = ok && sep && service != "" && method != "" && !strings.Contains(method, "/")
	return name, ok
}

// incoming returns the call's metadata as rules see it, without pseudo-headers and binary
// values, and a context in which neither rules nor methods see a claim to an identity.
func incoming(ctx context.Context) (context.Context, http.Header) {
	md, _ := metadata.FromIncomingContext(ctx)
	h := make(http.Header, len(md))
	claimed := false
	for k, v := range md {
		key := http.CanonicalHeaderKey(k)
		switch {
		case claims.Has(key):
			delete(md, k) // md is a copy
			claimed = true
		case !strings.HasPrefix(k, ":") && !strings.HasSuffix(k, "-bin"):
			h[key] = v
		}
	}
	if claimed {
		ctx = metadata.NewIncomingContext(ctx, md)
	}
	return ctx, h
}
