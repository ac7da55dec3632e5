package meshgrpc

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/internal/claims"
	"github.com/intramesh/mesh/policy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// authorizer decides calls: when they come in, and again while they are under way.
type authorizer struct{ mesh *mesh.Mesh }

func (a authorizer) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	c, err := a.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	res, err := handle(c, req)
	if denied := c.end(); denied != nil {
		return nil, denied
	}
	return res, err
}

func (a authorizer) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	c, err := a.admit(s.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	err = handle(srv, &serverStream{s, c})
	if denied := c.end(); denied != nil {
		return denied
	}
	return err
}

// A call is one that was let in, and the context of its method, in which nobody sees a claim to an identity. Whoever got it
// owes end.
type call struct{ mesh.Call }

// admit decides a call. The context that it returns is cancelled when the rules no longer allow the call, with a
// *mesh.DeniedError as its cause.
func (a authorizer) admit(ctx context.Context, fullMethod string) (*call, error) {
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
	c := new(call)
	if err := a.mesh.Admit(ctx, info.Peer, &policy.Request{Layer: policy.LayerGRPC, GRPCMethod: method}, c, &c.Call); err != nil {
		return nil, deny(err)
	}
	return c, nil
}

// Value is where gRPC looks for the call's metadata, the only thing of that type in a context.
func (c *call) Value(key any) any {
	v := c.Call.Value(key)
	if md, ok := v.(metadata.MD); ok {
		return withoutClaims(md)
	}
	return v
}

// withoutClaims returns md as it is, or a copy without the claims to an identity.
func withoutClaims(md metadata.MD) metadata.MD {
	isClaim := func(k string, _ []string) bool { return claims.Has(http.CanonicalHeaderKey(k)) }
	for k := range md {
		if isClaim(k, nil) {
			md = maps.Clone(md)
			maps.DeleteFunc(md, isClaim)
			break
		}
	}
	return md
}

// Header returns the call's metadata as rules see it, without pseudo-headers and binary values.
func (c *call) Header() http.Header {
	md, _ := metadata.FromIncomingContext(c)
	h := make(http.Header, len(md))
	for k, v := range md {
		if !strings.HasPrefix(k, ":") && !strings.HasSuffix(k, "-bin") {
			h[http.CanonicalHeaderKey(k)] = v
		}
	}
	return h
}

// Cut ends a call from outside of its method, which may be waiting for a message and then no longer does. It
// reports whether it could: gRPC has the means, but does not promise them.
func (c *call) Cut(why *mesh.DeniedError) bool {
	s, ok := grpc.ServerTransportStreamFromContext(c).(interface{ WriteStatus(*status.Status) error })
	if !ok {
		return false
	}
	_ = s.WriteStatus(newDeniedError(why).status) // it fails only for a call that is over
	return true
}

func errUnauthenticated() error {
	return status.Error(codes.Unauthenticated, "the connection is not one of the mesh")
}

// denied returns why the rules ended the call, or nil.
func (c *call) denied() *mesh.DeniedError {
	if c.Err() == nil {
		return nil
	}
	d, _ := errors.AsType[*mesh.DeniedError](context.Cause(c))
	return d
}

// end ends the call and returns its error if the rules did before.
func (c *call) end() error {
	defer c.End()
	if d := c.denied(); d != nil {
		return newDeniedError(d)
	}
	return nil
}

// deny makes err, which holds a *mesh.DeniedError, the result of a call.
func deny(err error) error {
	d, ok := errors.AsType[*mesh.DeniedError](err)
	if !ok {
		return status.Error(codes.PermissionDenied, "the call could not be decided")
	}
	return newDeniedError(d)
}

// parseMethod reads "/pay.v1.Payments/Charge", in this form only: of two spellings of a method
// the rules might know one.
func parseMethod(full string) (string, bool) {
	name, ok := strings.CutPrefix(full, "/")
	service, method, sep := strings.Cut(name, "/")
	ok = ok && sep && service != "" && method != "" && !strings.Contains(method, "/")
	return name, ok
}
