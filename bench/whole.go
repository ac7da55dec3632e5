package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Figures of whole processes.
const (
	figServer  = "server KiB/conn"
	figClient  = "client KiB/conn"
	figPause   = "longest pause"
	figCalm    = "longest pause without a change"
	figModules = "modules"
	figSize    = "size"
)

// wholeWorkloads use fresh processes in each round.
func wholeWorkloads() []workload {
	direct := []string{namePlain, nameTLS, nameSPIFFE, nameOurs}
	return []workload{
		{
			name: "idle", title: "10,000 idle connections: resident memory of each", contenders: direct, baselines: []string{nameTLS},
			headline: figServer, rounds: 2, measure: measureIdle,
			goals: []goal{ours(figServer, "", 24), ours(figServer, nameTLS, 1)},
		},
		{
			name: "cut", title: "A change of the rules cuts 100 of 10,000 open connections", contenders: []string{nameOurs},
			headline: figTime, rounds: 2, measure: measureCut,
			goals: []goal{ours(figTime, "", 50e6), ours(figPause, "", 5e6)},
		},
		fleetWorkload(),
		{
			name: "start", title: "From the start of a process to its first answer", contenders: direct, baselines: []string{nameTLS},
			headline: figTime, rounds: 9, quickRounds: minRounds, measure: measureStart,
			goals: []goal{ours(figTime, "", 100e6)},
		},
		{
			name: "member", title: "A small process that gossips, listens and has made a call", contenders: []string{nameOurs},
			headline: figMemory, rounds: minRounds, measure: measureMember,
			goals: []goal{ours(figMemory, "", 15<<10), ours(figTime, "", 100e6)},
		},
		{
			name: "size", title: "The smallest program, examples/minimal, stripped", contenders: []string{nameOurs},
			headline: figSize, rounds: 1, measure: measureSize,
			goals: []goal{ours(figSize, "", 9<<20)},
		},
	}
}

// freshPair measures with a pair of processes of its own, for what earlier rounds would spoil.
func (b *bench) freshPair(ctx context.Context, name string, f func(*contender) (figures, error)) (figures, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := b.env.start(ctx, name)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	return f(c)
}

// measureIdle looks at memory once the garbage of ten thousand handshakes is gone.
func measureIdle(ctx context.Context, b *bench, name string) (figures, error) {
	const n, workers = 10_000, 4
	return b.freshPair(ctx, name, func(c *contender) (figures, error) {
		server, client := c.server.cmd.Process.Pid, c.client.cmd.Process.Pid
		serverBefore, clientBefore := residentKiB(server), residentKiB(client)
		if _, err := c.client.ask(command{Op: "prepare", Load: load{Kind: "open", Size: n / workers, InFlight: workers, MaxOps: 1}}); err != nil {
			return nil, err
		}
		if _, err := c.client.ask(command{Op: "go"}); err != nil {
			return nil, err
		}
		for _, end := range []*child{c.server, c.client} {
			if _, err := end.ask(command{Op: "settle"}); err != nil {
				return nil, err
			}
		}
		return figures{
			figServer: (residentKiB(server) - serverBefore) / n,
			figClient: (residentKiB(client) - clientBefore) / n,
		}, nil
	})
}

// measureCut opens 9,900 connections of the client and 100 of the guest, and withdraws the rule that admits the guest. The time is
// from then to the end of the guest's last connection, as the guest sees it. The pause is the longest echo of another process within
// a second around the change, beside that of a second before it: what the machine does anyway.
func measureCut(ctx context.Context, b *bench, name string) (figures, error) {
	const others, workers, affected = 9_900, 4, 100
	return b.freshPair(ctx, name, func(c *contender) (figures, error) {
		guest, err := b.env.child(ctx, name, "client", guestName, c.server.addrs)
		if err != nil {
			return nil, err
		}
		defer guest.stop()
		crowd, err := b.env.child(ctx, name, "client", clientName, c.server.addrs)
		if err != nil {
			return nil, err
		}
		defer crowd.stop()
		_, err = crowd.ask(command{Op: "prepare", Load: load{Kind: "open", Size: others / workers, InFlight: workers, MaxOps: 1}})
		if err == nil {
			_, err = crowd.ask(command{Op: "go"})
		}
		if err == nil {
			_, err = guest.ask(command{Op: "prepare", Load: load{Kind: "cut", Size: affected, InFlight: 1, MaxOps: 1}})
		}
		echoes := command{Op: "prepare", Load: load{Kind: "echo", Size: 64, InFlight: 1, Time: time.Second}}
		var calm reply
		if err == nil {
			_, err = c.client.ask(echoes)
		}
		if err == nil {
			calm, err = c.client.ask(command{Op: "go"})
		}
		if err == nil {
			_, err = c.client.ask(command{Op: "finish"})
		}
		if err == nil {
			_, err = c.client.ask(echoes)
		}
		if err != nil {
			return nil, err
		}
		cut, echo := inBackground(guest), inBackground(c.client)
		select { // the echo is under way when the rules change
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
		change, err := c.server.ask(command{Op: "change"})
		end, beat := <-cut, <-echo
		if err := errors.Join(err, end.err, beat.err); err != nil {
			return nil, err
		}
		return figures{
			figTime:  float64(end.Sample.End.Sub(change.Began)),
			figPause: float64(beat.Sample.Max),
			figCalm:  float64(calm.Sample.Max),
		}, nil
	})
}

type outcomeOfGo struct {
	reply
	err error
}

func inBackground(c *child) <-chan outcomeOfGo {
	done := make(chan outcomeOfGo, 1)
	go func() {
		r, err := c.ask(command{Op: "go"})
		done <- outcomeOfGo{r, err}
	}()
	return done
}

func measureStart(ctx context.Context, b *bench, name string) (figures, error) {
	return b.freshPair(ctx, name, func(c *contender) (figures, error) {
		start := time.Now()
		late, err := b.env.child(ctx, name, "client", clientName, c.server.addrs)
		if err != nil {
			return nil, err
		}
		defer late.stop()
		if _, err := late.ask(command{Op: "prepare", Load: load{Kind: "echo", Size: 64, InFlight: 1}}); err != nil {
			return nil, err
		}
		took := time.Since(start)
		return figures{figTime: float64(took), figMemory: residentKiB(late.cmd.Process.Pid)}, nil
	})
}

// measureMember starts bench/member, which has nothing in it that the bench needs and others don't.
func measureMember(ctx context.Context, b *bench, name string) (figures, error) {
	file := filepath.Join(b.env.dir, "member")
	if _, err := os.Stat(file); err != nil {
		if _, err := goTool(ctx, "build", "-o", file, "./bench/member"); err != nil {
			return nil, err
		}
	}
	return b.freshPair(ctx, name, func(c *contender) (figures, error) {
		cmd := exec.CommandContext(ctx, file, filepath.Join(b.env.dir, clientName), c.server.addrs[svcRaw]) //nolint:gosec // our own program
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		start := time.Now()
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		_, err = bufio.NewReader(out).ReadString('\n')
		f := figures{figTime: float64(time.Since(start)), figMemory: residentKiB(cmd.Process.Pid)}
		_ = in.Close()
		return f, errors.Join(err, cmd.Wait())
	})
}

func measureSize(ctx context.Context, b *bench, _ string) (figures, error) {
	file := filepath.Join(b.env.dir, "minimal")
	if _, err := goTool(ctx, "build", "-trimpath", "-ldflags=-s -w", "-o", file, "./examples/minimal"); err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	linked, err := goTool(ctx, "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./examples/minimal")
	if err != nil {
		return nil, err
	}
	modules := make(map[string]bool)
	for m := range strings.FieldsSeq(string(linked)) {
		modules[m] = true
	}
	return figures{figSize: float64(info.Size()), figModules: float64(len(modules))}, nil
}

// goTool runs the go command in the repository's root.
func goTool(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	work, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // the arguments are this file's
	cmd.Dir, cmd.Env = filepath.Dir(strings.TrimSpace(string(work))), append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", args[0], err)
	}
	return out, nil
}
