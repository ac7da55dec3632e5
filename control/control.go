// Package control is the control plane of a mesh: the certificate authority that members
// enrol with, the store of rules and the signed bundle they travel in, and the seed of the
// gossip. The command "mesh" is a thin layer over it.
//
//	err := control.Init("mesh-data", control.Settings{TrustDomain: "example.test"})
//	s, err := control.New(ctx, control.Config{Dir: "mesh-data"})
//	defer s.Close()
//	err = s.Serve(ctx)
//
// Everything an operator does (tokens, rules, members) goes over the unix socket
// DIR/admin.sock; package [github.com/intramesh/mesh/control/admin] is its client.
package control

import (
	"context"
	"log/slog"
)

// Config tells [New] what to run.
type Config struct {
	// Dir is a directory that [Init] made.
	Dir string
	// Logger takes what the control plane has to say; nil discards it.
	Logger *slog.Logger
}

// A Server is a running control plane. It is safe for concurrent use.
type Server struct{}

// Init makes a new control plane in dir, which must not exist or be empty: keys and
// certificates, an empty store of rules, and mesh.yaml with the settings.
func Init(dir string, s Settings) error { panic("not built yet") }

// New opens dir and starts everything; when it returns, members can enrol and join and
// the admin socket answers. ctx bounds the start only. The caller must Close.
func New(ctx context.Context, cfg Config) (*Server, error) { panic("not built yet") }

// Serve blocks until ctx is done (then it closes the server gracefully and returns nil) or
// something that the control plane can't do without fails.
func (s *Server) Serve(ctx context.Context) error { panic("not built yet") }

// Close stops at once and waits for everything that it started. It is idempotent.
func (s *Server) Close() error { panic("not built yet") }
