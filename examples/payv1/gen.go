// Package payv1 is the gRPC API of the examples, generated from pay.proto.
package payv1

//go:generate go run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate
