package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"runtime/pprof"
	"time"
)

// The bench runs itself again for each end of each contender, and talks to these processes in lines of JSON over
// their standard input and output. A process ends when its input does.

// A setup tells a child what it is; it is the first line.
type setup struct {
	Role      string            `json:"role"` // "server", "client" or "fleet", whose Addrs are bootstraps
	Contender string            `json:"contender"`
	Dir       string            `json:"dir"` // of its certificate
	Addrs     map[string]string `json:"addrs,omitempty"`
	Profile   string            `json:"profile,omitempty"` // prefix of the files to write profiles to
}

// A command asks a child to do something. Op is "usage", "settle" (collect garbage), "change" (a server's
// rules), or one of a load's three steps: "prepare", "go", "finish".
type command struct {
	Op   string `json:"op"`
	Load load   `json:"load,omitzero"`
	On   bool   `json:"on,omitempty"`
}

// A reply answers a setup or a command.
type reply struct {
	Error  string            `json:"error,omitempty"`
	Addrs  map[string]string `json:"addrs,omitempty"`
	Usage  usage             `json:"usage,omitzero"`
	Sample sample            `json:"sample,omitzero"`
	// Open and Made are the connections of a server's HTTP services, now and ever.
	Open int `json:"open,omitempty"`
	Made int `json:"made,omitempty"`
	// Began is when the rules' change began.
	Began time.Time `json:"began,omitzero"`
}

// usage is what a process has used since it started.
type usage struct {
	CPU    time.Duration `json:"cpu"`
	Allocs uint64        `json:"allocs"`
	Bytes  uint64        `json:"bytes"`
}

func ownUsage() usage {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return usage{CPU: cpuTime(), Allocs: s[0].Value.Uint64(), Bytes: s[1].Value.Uint64()}
}

func (u usage) minus(v usage) usage {
	return usage{CPU: u.CPU - v.CPU, Allocs: u.Allocs - v.Allocs, Bytes: u.Bytes - v.Bytes}
}

func (u usage) plus(v usage) usage {
	return usage{CPU: u.CPU + v.CPU, Allocs: u.Allocs + v.Allocs, Bytes: u.Bytes + v.Bytes}
}

const childVariable = "MESH_BENCH_CHILD"

// childMain is main in a child.
func childMain(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	enc := json.NewEncoder(out)
	if !lines.Scan() {
		return lines.Err()
	}
	var s setup
	if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
		return err
	}
	p, err := newProcess(s)
	if err != nil {
		return enc.Encode(reply{Error: err.Error()})
	}
	if err := enc.Encode(reply{Addrs: p.addrs}); err != nil {
		return err
	}
	stop := profile(s.Profile)
	defer stop()
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		r, err := p.do(c)
		if err != nil {
			r.Error = err.Error()
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return lines.Err()
}

// profile writes a CPU profile from now until stop, and then all allocations.
func profile(prefix string) (stop func()) {
	if prefix == "" {
		return func() {}
	}
	runtime.MemProfileRate = 64 << 10
	cpu, err := os.Create(prefix + ".cpu.pprof")
	if err != nil {
		return func() {}
	}
	_ = pprof.StartCPUProfile(cpu)
	return func() {
		pprof.StopCPUProfile()
		_ = cpu.Close()
		if f, err := os.Create(prefix + ".allocs.pprof"); err == nil {
			_ = pprof.Lookup("allocs").WriteTo(f, 0)
			_ = f.Close()
		}
	}
}

// A child is a process that was started.
type child struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Scanner
	addrs map[string]string
}

// startChild runs a program, "" for this very one.
func startChild(ctx context.Context, program string, s setup) (*child, error) {
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	c := &child{cmd: exec.CommandContext(ctx, program)}
	c.cmd.Env = append(os.Environ(), childVariable+"=1")
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewScanner(out)
	c.out.Buffer(nil, 1<<20)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	r, err := c.ask(s)
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("%s of %s: %w", s.Role, s.Contender, err)
	}
	c.addrs = r.Addrs
	return c, nil
}

func (c *child) ask(question any) (reply, error) {
	if err := json.NewEncoder(c.in).Encode(question); err != nil {
		return reply{}, err
	}
	if !c.out.Scan() {
		return reply{}, errors.Join(c.out.Err(), io.ErrUnexpectedEOF)
	}
	var r reply
	if err := json.Unmarshal(c.out.Bytes(), &r); err != nil {
		return reply{}, err
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// stop ends the process and waits for it. One that does not end by itself is killed.
func (c *child) stop() {
	_ = c.in.Close()
	t := time.AfterFunc(5*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer t.Stop()
	_ = c.cmd.Wait()
}
