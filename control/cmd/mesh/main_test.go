package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/internal/etcdtest"
	"go.uber.org/goleak"
)

// binary is the command, built once; by TestMain, so that no test pays for it.
var binary string

func TestMain(m *testing.M) {
	if os.Getenv(asInstance) != "" {
		if err := instance(); err != nil {
			fmt.Fprintln(os.Stderr, "instance:", err)
			os.Exit(1)
		}
		return
	}
	etcdtest.Main()
	dir, err := os.MkdirTemp("", "mesh")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "mesh")
	if out, err := exec.CommandContext(context.Background(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	// glog, below smallstep's badger, starts it when it is linked in.
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"),
		goleak.Cleanup(func(code int) {
			_ = os.RemoveAll(dir)
			os.Exit(code)
		}))
}

// mesh runs the command in dir and returns its exit code and what it printed.
func mesh(t *testing.T, dir, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MESH_DIR=")
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatal(err)
		}
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// must runs the command and wants it to exit with 0.
func must(t *testing.T, dir, stdin string, args ...string) string {
	t.Helper()
	code, out, errs := mesh(t, dir, stdin, args...)
	if code != 0 {
		t.Fatalf("mesh %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// newPlane makes a control plane at dir/mesh-data.
func newPlane(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	must(t, dir, "", append([]string{"init", "--trust-domain", "example.test"}, anyPorts...)...)
	keepPorts(t, dir)
	return dir
}

var anyPorts = []string{"--listen-ca", "127.0.0.1:0", "--listen-mesh", "127.0.0.1:0", "--listen-gossip", "127.0.0.1:0"}

// newReplicas makes n control planes on one etcd, each at mesh-data in a directory of its own.
func newReplicas(t *testing.T, n int, store string) (dirs []string) {
	t.Helper()
	for i := range n {
		dir := t.TempDir()
		dirs = append(dirs, dir)
		if i == 0 {
			must(t, dir, "", append([]string{"init", "--trust-domain", "example.test", "--store", store}, anyPorts...)...)
		} else {
			must(t, dirs[0], "", append([]string{"replica", filepath.Join(dir, "mesh-data")}, anyPorts...)...)
		}
		keepPorts(t, dir)
	}
	return dirs
}

func keepPorts(t *testing.T, dir string) {
	t.Helper()
	// Ports that nobody else is given by chance while a test restarts it: below those that
	// systems hand out for port 0. One that is taken is replaced.
	first := 15000 + rand.IntN(15000)
	run := fmt.Sprintf(`{"ca": "127.0.0.1:%d", "mesh": "127.0.0.1:%d", "gossip": "127.0.0.1:%d"}`, first, first+1, first+2)
	if err := os.WriteFile(filepath.Join(dir, "mesh-data", "run.json"), []byte(run), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A process is a running "mesh serve".
type process struct {
	cmd  *exec.Cmd
	line string // what it printed when it was ready
	wait func() error
}

func serve(t *testing.T, dir string) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, "serve", "-o", "json", "--log-level", "error")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MESH_DIR=")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, wait: sync.OnceValue(cmd.Wait)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = p.wait()
	})
	var ready json.RawMessage
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&ready); err != nil {
		t.Fatalf("not ready: %v, %v", err, p.wait())
	}
	p.line = string(ready)
	return p
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = p.wait() // signal: killed
}

func (p *process) client(t *testing.T) *admin.Client {
	t.Helper()
	c, err := admin.NewClient(filepath.Join(p.cmd.Dir, "mesh-data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
