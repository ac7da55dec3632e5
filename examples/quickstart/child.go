package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/intramesh/mesh"
)

// A role is what a child became: what it tells the parent when it is ready, what it does on
// command, and how it stops.
type role struct {
	ready any
	ops   map[string]operation
	stop  func()
}

type operation func(ctx context.Context, args json.RawMessage) (any, error)

// childMain runs one process of the mesh until its standard input ends. That happens when the parent is
// gone without having ended it, so it removes the files of the run too.
func childMain() int {
	signal.Ignore(syscall.SIGPIPE) // a parent that is gone must not end this before it has cleaned up
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	var s setup
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &s) != nil {
		fmt.Fprintln(os.Stderr, "quickstart: this is started by quickstart itself")
		return 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	commands := make(chan command)
	go func() {
		defer close(commands)
		defer cancel()
		for lines.Scan() {
			var c command
			if json.Unmarshal(lines.Bytes(), &c) == nil {
				commands <- c
			}
		}
		time.AfterFunc(3*time.Second, func() { // should stopping hang
			os.RemoveAll(s.Root)
			os.Exit(3)
		})
	}()

	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	answer := func(id int, result any, err error) {
		r := reply{ID: id}
		if r.Result, _ = json.Marshal(result); err != nil {
			r.Error = err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(r)
	}

	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	r, err := s.become(ctx, log)
	if err != nil {
		answer(0, nil, err)
		for range commands { // the parent decides when this ends
		}
		os.RemoveAll(s.Root)
		return 1
	}
	answer(0, r.ready, nil)
	for c := range commands {
		go func() {
			op, ok := r.ops[c.Op]
			if !ok {
				answer(c.ID, nil, fmt.Errorf("%s can't %q", s.Name, c.Op))
				return
			}
			result, err := op(ctx, c.Args)
			answer(c.ID, result, err)
		}()
	}
	r.stop()
	os.RemoveAll(s.Root)
	return 0
}

func (s setup) become(ctx context.Context, log *slog.Logger) (*role, error) {
	switch s.Role {
	case "control":
		return startControl(ctx, s, log)
	case "payments":
		return startPayments(ctx, s, log)
	case "orders":
		return startOrders(ctx, s, log)
	}
	return nil, fmt.Errorf("no role %q", s.Role)
}

// join makes this process a member of the mesh.
func join(ctx context.Context, s setup, log *slog.Logger) (*mesh.Mesh, error) {
	b, err := mesh.ParseBootstrap(s.Bootstrap) // a service of yours calls mesh.BootstrapFromEnv
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return mesh.Join(ctx, mesh.Config{
		Service:   s.Role,
		Bootstrap: b,
		Advertise: "127.0.0.1",
		StateDir:  s.Dir,
		Logger:    log,
	})
}
