package meshgrpc

import (
	"errors"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/policy"
	"google.golang.org/grpc/balancer"
)

// callee is who is called by which name. It is an attribute of a resolver.Endpoint, under calleeKey.
type callee struct {
	mesh    *mesh.Mesh
	address string
	set     *mesh.Balancer
}

type calleeKey struct{}

// early returns the denial that the endpoint is sure to give to a call, nil when it must be asked.
func (e *endpoint) early(info balancer.PickInfo) error {
	if e.mesh == nil {
		return nil
	}
	method, ok := parseMethod(info.FullMethodName)
	if !ok {
		return nil
	}
	d := e.mesh.Early(info.Ctx, e.address, e.addr, func(r *policy.Request) { r.Layer, r.GRPCMethod = policy.LayerGRPC, method })
	if d == nil {
		return nil
	}
	return newDeniedError(d)
}

// refused has it remembered when the endpoint has denied a call.
func (e *endpoint) refused(err error) {
	if err == nil || e.mesh == nil {
		return
	}
	if denied, ok := errors.AsType[*deniedError](explain(err)); ok {
		e.mesh.Refused(e.address, e.addr, denied.denied)
	}
}
