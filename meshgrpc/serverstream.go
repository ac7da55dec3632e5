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

func (s *serverStream) Context() context.Context { return s.call }

func (s *serverStream) SendMsg(m any) error { return s.explain(s.ServerStream.SendMsg(m)) }

func (s *serverStream) RecvMsg(m any) error { return s.explain(s.ServerStream.RecvMsg(m)) }

func (s *serverStream) explain(err error) error {
	if err == nil {
		return nil
	}
	if d := s.call.denied(); d != nil {
		return newDeniedError(d)
	}
	return err
}
