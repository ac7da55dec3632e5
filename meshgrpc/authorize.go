package meshgrpc

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"

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
	res, err := handle(c.ctx, req)
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

// A call is one that was let in. Whoever got it owes end.
type call struct {
	ctx  context.Context // the method's
	stop func() bool     // ends the watch for a denial
	over func()

	once, told sync.Once
}

// admit decides a call. The context of the call that it returns is cancelled when the rules no
// longer allow it, with a *mesh.DeniedError as its cause.
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
	ctx, h := incoming(mesh.ContextWithPeer(ctx, info.Peer))
	admitted, done, err := a.mesh.Admit(ctx, &policy.Request{Layer: policy.LayerGRPC, GRPCMethod: method, Header: h})
	if err != nil {
		return nil, deny(ctx, err)
	}
	c := &call{ctx: admitted, over: done}
	c.stop = context.AfterFunc(admitted, func() {
		if c.abort() {
			c.done() // if not, the mesh closes the connection
		}
	})
	return c, nil
}

func (c *call) done() { c.once.Do(c.over) }

func errUnauthenticated() error {
	return status.Error(codes.Unauthenticated, "the connection is not one of the mesh")
}

// deniedBy returns why the rules ended a call, or nil.
func deniedBy(ctx context.Context) *mesh.DeniedError {
	d, _ := errors.AsType[*mesh.DeniedError](context.Cause(ctx))
	return d
}

// denied returns the error of a call that the rules no longer allow, or nil.
func (c *call) denied() error {
	if d := deniedBy(c.ctx); d != nil {
		return newDeniedError(d)
	}
	return nil
}

// end ends the call and returns what denied does.
func (c *call) end() error {
	defer c.done()
	c.stop()
	err := c.denied()
	if err != nil {
		c.tell()
	}
	return err
}

// tell puts the denial into the trailer.
func (c *call) tell() { c.told.Do(func() { setTrailer(c.ctx, deniedBy(c.ctx)) }) }

// abort ends a call that is denied from outside of its method, which may be waiting for a message
// and then no longer does. It reports whether it could: gRPC has the means, but does not promise
// them.
func (c *call) abort() bool {
	d := deniedBy(c.ctx)
	s, ok := grpc.ServerTransportStreamFromContext(c.ctx).(interface{ WriteStatus(*status.Status) error })
	if d == nil || !ok {
		return false
	}
	c.tell()
	_ = s.WriteStatus(newDeniedError(d).status) // it fails only for a call that is over
	return true
}

// deny makes err, which holds a *mesh.DeniedError, the result of a call.
func deny(ctx context.Context, err error) error {
	d, ok := errors.AsType[*mesh.DeniedError](err)
	if !ok {
		return status.Error(codes.PermissionDenied, "the call could not be decided")
	}
	setTrailer(ctx, d)
	return newDeniedError(d)
}

func setTrailer(ctx context.Context, d *mesh.DeniedError) {
	// It fails only for a call that is over.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(deniedKey, d.Encode()))
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
