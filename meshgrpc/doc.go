// Package meshgrpc runs gRPC over a mesh: both ends are verified, every call is decided by the
// rules, and a client's calls are spread over the instances of a service.
//
// # Serving
//
//	ln, err := m.Listen(ctx, "tcp", ":0")
//	s := meshgrpc.NewServer(m)
//	pay.RegisterPaymentsServer(s, payments{})
//	err = s.Serve(ln)
//
// A method finds its caller by [mesh.PeerFromContext]. A call that the rules refuse never gets
// there: it ends with PERMISSION_DENIED.
//
// # Calling
//
//	cc, err := meshgrpc.NewClient(m, "payments")
//	reply, err := pay.NewPaymentsClient(cc).Charge(ctx, request)
//
// The error of a refused call is both a gRPC status and, for errors.As, a [*mesh.DeniedError] which
// names the rule, unless the operator of the service does not want denials explained: then it is the code alone.
package meshgrpc
