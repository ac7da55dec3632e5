package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// childArg, as the first argument, makes this program one of the mesh's processes; the second
// argument is there for ps.
const childArg = "quickstart-process"

// setup is the first line that a child reads from its standard input.
type setup struct {
	Role string `json:"role"` // "control", "payments" or "orders"
	Name string `json:"name"` // "payments-1"
	// Root is the directory of the whole run, Dir the process's own.
	Root string `json:"root"`
	Dir  string `json:"dir"`
	// Bootstrap is what "mesh token" printed.
	Bootstrap string `json:"bootstrap,omitempty"`
}

// command and reply are the lines that parent and child exchange after that. The reply with ID 0 says
// that the child is ready.
type command struct {
	ID   int             `json:"id"`
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

type reply struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// A group is all the processes of a run and their directory.
type group struct {
	root string
	fail context.CancelCauseFunc

	mu     sync.Mutex
	procs  []*process
	closed bool // nothing may be started any more
}

// withProcesses calls f, whose context also ends when a process exits that should not. When f
// returns or panics, every process is killed and the directory removed.
func withProcesses(ctx context.Context, f func(context.Context, *group) error) (err error) {
	root, err := os.MkdirTemp("", "mesh-quickstart-")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	g := &group{root: root, fail: cancel}
	defer func() {
		cancel(nil)
		if err = errors.Join(err, g.close()); err != nil {
			err = &stepError{err: err, logs: g.lastLogs()}
		}
		err = errors.Join(err, os.RemoveAll(root))
	}()
	if err = f(ctx, g); err == nil {
		return nil
	}
	// If a process has died, or the run was interrupted, what f says is only a consequence; it may be here first.
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(300 * time.Millisecond):
		return err
	}
}

// A stepError is why a step does not hold, with what may explain it.
type stepError struct {
	err  error
	logs string
}

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// A process is a child.
type process struct {
	setup
	pid   int
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ready json.RawMessage
	// exited is closed when the process has been waited for; err then says how it ended.
	exited chan struct{}
	err    error

	mu      sync.Mutex
	next    int
	waiting map[int]chan reply
	ending  bool // it is meant to exit
}

// An exitError says that a process is no more.
type exitError struct{ text string }

func (e *exitError) Error() string { return e.text }

// start runs a child and waits until it is ready.
func (g *group) start(ctx context.Context, s setup) (*process, error) {
	s.Root, s.Dir = g.root, filepath.Join(g.root, s.Name)
	p := &process{setup: s, exited: make(chan struct{}), waiting: map[int]chan reply{}}
	ready := make(chan reply, 1)
	p.waiting[0] = ready
	if err := g.launch(p); err != nil {
		return nil, fmt.Errorf("starting %s: %w", s.Name, err)
	}
	if err := p.send(s); err != nil {
		return nil, err
	}
	r, err := p.await(ctx, ready)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", s.Name, err)
	}
	p.ready = r.Result
	return p, nil
}

func (g *group) launch(p *process) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(g.root, p.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()                           // the child has its own
	p.cmd = exec.Command(exe, childArg, p.Name) //nolint:noctx,gosec // itself; the group kills it, whatever becomes of a context
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = ownGroup()
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errors.New("the run is over")
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.pid = p.cmd.Process.Pid
	g.procs = append(g.procs, p)
	go g.watch(p, stdout)
	return nil
}

// watch hands replies to who waits for them, and notices the end of the process.
func (g *group) watch(p *process, stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r reply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		p.mu.Lock()
		if c := p.waiting[r.ID]; c != nil {
			c <- r
			delete(p.waiting, r.ID)
		}
		p.mu.Unlock()
	}
	_ = p.cmd.Wait() // ProcessState says how it ended
	p.mu.Lock()
	p.err = &exitError{fmt.Sprintf("%s (pid %d) died: %v", p.Name, p.pid, p.cmd.ProcessState)}
	ending := p.ending
	p.mu.Unlock()
	if !ending {
		g.fail(p.err)
	}
	close(p.exited)
}

func (p *process) send(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = p.stdin.Write(append(line, '\n'))
	if err != nil {
		return fmt.Errorf("talking to %s: %w", p.Name, err)
	}
	return nil
}

func (p *process) await(ctx context.Context, c chan reply) (reply, error) {
	select {
	case r := <-c:
		if r.Error != "" {
			return r, errors.New(r.Error)
		}
		return r, nil
	case <-p.exited:
		return reply{}, p.err
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
}

// call has the child carry out an operation and waits for the result.
func call[T any](ctx context.Context, p *process, op string, args any) (result T, err error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return result, err
	}
	answer := make(chan reply, 1)
	p.mu.Lock()
	p.next++
	id := p.next
	p.waiting[id] = answer
	p.mu.Unlock()
	if err := p.send(command{ID: id, Op: op, Args: raw}); err != nil {
		return result, err
	}
	r, err := p.await(ctx, answer)
	if err != nil {
		return result, fmt.Errorf("%s, asked to %s: %w", p.Name, op, err)
	}
	return result, json.Unmarshal(r.Result, &result)
}

// kill ends the process as a crash does (SIGKILL) and waits for it.
func (p *process) kill() error {
	p.mu.Lock()
	p.ending = true
	p.mu.Unlock()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(5 * time.Second):
		return fmt.Errorf("%s (pid %d) survives SIGKILL", p.Name, p.pid)
	}
}

func (g *group) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	var errs []error
	for _, p := range g.procs {
		errs = append(errs, p.kill())
	}
	return errors.Join(errs...)
}

// lastLogs returns the end of each process's log.
func (g *group) lastLogs() string {
	var b strings.Builder
	names, _ := filepath.Glob(filepath.Join(g.root, "*.log"))
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || len(text) == 0 {
			continue
		}
		lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
		for _, l := range lines[max(0, len(lines)-12):] {
			fmt.Fprintf(&b, "  %-12s %.400s\n", strings.TrimSuffix(filepath.Base(name), ".log"), l)
		}
	}
	return b.String()
}
