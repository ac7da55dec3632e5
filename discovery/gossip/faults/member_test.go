package faults_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
)

// asMember makes the test's binary a member instead.
const asMember = "MESH_FAULTS_MEMBER"

func TestMain(m *testing.M) {
	if spec := os.Getenv(asMember); spec != "" {
		if err := member(spec); err != nil {
			fmt.Fprintln(os.Stderr, "member:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// A spec says what a process is to do.
type spec struct {
	Addr   string
	Key    byte
	Seeds  []string
	Dir    string
	Weight uint16
}

// view is what a process knows of the members.
type view struct{ Ready, Suspect, Heavy int }

const port = 7946

// member gossips until it is killed, and prints each change of what it knows. Each line that it reads makes it announce a
// greater weight.
func member(raw string) error {
	var sp spec
	if err := json.Unmarshal([]byte(raw), &sp); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	addr, err := netip.ParseAddr(sp.Addr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	g, err := gossip.Join(ctx, gossip.Config{
		BindAddr: netip.AddrPortFrom(addr, port), Keys: [][]byte{bytes.Repeat([]byte{sp.Key}, 32)}, Seeds: sp.Seeds, Dir: sp.Dir, Logger: log,
		JoinTimeout: time.Second, RejoinInterval: 3 * time.Second,
	})
	if err != nil {
		return err
	}
	defer g.Close()
	ep := discovery.Endpoint{Service: "all", Addr: netip.AddrPortFrom(addr, 1), Weight: sp.Weight}
	if err := g.Register(ctx, ep); err != nil {
		return err
	}
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			ep.Weight++
			_ = g.Register(ctx, ep)
		}
	}()
	for out := json.NewEncoder(os.Stdout); ; {
		snap := g.Lookup("all")
		var v view
		for _, ep := range snap.Endpoints {
			switch {
			case ep.Suspect:
				v.Suspect++
			default:
				v.Ready++
			}
			if ep.Weight > 1 {
				v.Heavy++
			}
		}
		if err := out.Encode(v); err != nil {
			return err
		}
		select {
		case <-snap.Changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// A process is one member.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	end func() error

	mu      sync.Mutex
	now     view
	most    int // of Ready
	doubts  int // how often Suspect rose
	changed chan struct{}
}

// start runs a member on host i of n.
func start(t *testing.T, ns string, sp spec) *process {
	t.Helper()
	raw, err := json.Marshal(sp)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ip", "netns", "exec", ns, self)
	cmd.Env = append(os.Environ(), asMember+"="+string(raw))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, in: in, changed: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() { p.read(out) })
	p.end = sync.OnceValue(func() error {
		err := cmd.Process.Kill()
		wg.Wait()
		_ = cmd.Wait() // signal: killed
		return err
	})
	t.Cleanup(func() {
		if err := p.end(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	})
	return p
}

func (p *process) read(out io.Reader) {
	for dec := json.NewDecoder(out); ; {
		var v view
		if dec.Decode(&v) != nil {
			return
		}
		p.mu.Lock()
		if v.Suspect > p.now.Suspect {
			p.doubts++
		}
		p.now, p.most = v, max(p.most, v.Ready)
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

// await waits until what the process knows satisfies cond.
func (p *process) await(t *testing.T, what string, cond func(view) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for {
		p.mu.Lock()
		now, changed := p.now, p.changed
		p.mu.Unlock()
		if cond(now) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s: still %+v", what, now)
		}
	}
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}
