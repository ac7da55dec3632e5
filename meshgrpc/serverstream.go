package meshgrpc

import (
	"context"

	"google.golang.org/grpc"
)

// serverStream is a stream with the call's context, whose errors tell when the rules ended it.
type serverStream struct {
	grpc.ServerStream
	call *call
}

func (s *serverStream) Context() context.Context { return s.call.ctx }

func (s *serverStream) SendMsg(m any) error { return s.explain(s.ServerStream.SendMsg(m)) }

func (s *serverStream) RecvMsg(m any) error { return s.explain(s.ServerStream.RecvMsg(m)) }

func (s *serverStream) explain(err error) error {
	if denied := s.call.denied(); err != nil && denied != nil {
		return denied
	}
	return err
}
