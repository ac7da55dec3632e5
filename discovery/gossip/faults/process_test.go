package faults_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/discovery/internal/testlog"
)

// A process is one member.
type process struct {
	spec
	cmd    *exec.Cmd
	in     io.WriteCloser
	end    func() error
	done   chan struct{} // closed when it has printed its last
	stderr testlog.Buffer

	mu      sync.Mutex
	now     view
	least   int // of Ready since mark
	most    int
	doubts  int // how often Suspect rose
	refused *gossip.Refused
	changed chan struct{}
}

// start runs a process in a namespace.
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
	p := &process{spec: sp, cmd: cmd, changed: make(chan struct{}), done: make(chan struct{})}
	cmd.Stderr = &p.stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(out)
	p.end = sync.OnceValue(func() error {
		err := cmd.Process.Kill()
		<-p.done
		_ = cmd.Wait() // signal: killed
		return err
	})
	t.Cleanup(func() {
		if err := p.end(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		if text := p.stderr.String(); strings.Contains(text, "panic:") || strings.Contains(text, "child:") || t.Failed() && sp.Role == "" {
			t.Logf("%s at %s:\n%s", sp.Role, sp.Addr, text)
		}
	})
	return p
}

// finish waits until the process ends by itself.
func (p *process) finish(t *testing.T) {
	t.Helper()
	<-p.done
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, p.stderr.String())
	}
}

func (p *process) read(out io.Reader) {
	defer close(p.done)
	for dec := json.NewDecoder(out); ; {
		var s said
		if dec.Decode(&s) != nil {
			return
		}
		p.mu.Lock()
		if v := s.View; v != nil {
			if v.Suspect > p.now.Suspect {
				p.doubts++
			}
			p.now, p.most, p.least = *v, max(p.most, v.Ready), min(p.least, v.Ready)
		} else {
			p.refused = s.Refused
		}
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

// mark begins anew with what range returns: the least and the most that were ready since.
func (p *process) mark() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.least, p.most = p.now.Ready, p.now.Ready
}

func (p *process) since() (least, most int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.least, p.most
}

// until waits until cond, which is called with p.mu held.
func (p *process) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	for {
		p.mu.Lock()
		ok, now, changed := cond(), p.now, p.changed
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-p.done:
			t.Fatalf("%s: it has ended: %s", what, p.stderr.String())
		case <-ctx.Done():
			t.Fatalf("%s: still %+v", what, now)
		}
	}
}

// await waits until what the process knows satisfies cond.
func (p *process) await(t *testing.T, what string, cond func(view) bool) {
	t.Helper()
	p.until(t, what, func() bool { return cond(p.now) })
}

func (p *process) say(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(p.in, line); err != nil {
		t.Fatal(err)
	}
}

// told asks the process what it refused so far.
func (p *process) told(t *testing.T) (r gossip.Refused) {
	t.Helper()
	p.mu.Lock()
	p.refused = nil
	p.mu.Unlock()
	p.say(t, tell)
	p.until(t, "what was refused", func() bool {
		if p.refused != nil {
			r = *p.refused
		}
		return p.refused != nil
	})
	return r
}

// peak is the most memory that the process ever had, in bytes.
func (p *process) peak(t *testing.T) (n int) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if _, err := fmt.Sscanf(in.Text(), "VmHWM: %d kB", &n); err == nil {
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}
