package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"github.com/intramesh/mesh/control"
)

const trustDomain = "quickstart.test"

// startControl is what "mesh init" and "mesh serve" do.
func startControl(ctx context.Context, s setup, log *slog.Logger) (*role, error) {
	if _, err := os.Stat(s.Dir); errors.Is(err, fs.ErrNotExist) {
		settings := control.Settings{
			TrustDomain: trustDomain,
			Listen:      control.Listen{CA: "127.0.0.1:0", Mesh: "127.0.0.1:0", Gossip: "127.0.0.1:0"},
		}
		if err := control.Init(s.Dir, settings); err != nil {
			return nil, err
		}
	}
	server, err := control.New(ctx, control.Config{Dir: s.Dir, Logger: log})
	if err != nil {
		return nil, err
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(ctx); err != nil {
			log.Error("serving", "err", err)
			os.Exit(1)
		}
	}()
	return &role{stop: func() { <-served }}, nil
}
