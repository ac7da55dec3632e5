// Package realtest runs other people's servers for tests: those that an environment variable gives the path of. Only tests
// import it.
package realtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Binary returns the path that an environment variable holds, or skips the test.
func Binary(t testing.TB, env string) string {
	t.Helper()
	path := os.Getenv(env)
	if path == "" {
		t.Skipf("%s is not set: it is the path of a program to test against (see CONTRIBUTING.md)", env)
	}
	if _, err := exec.LookPath(path); err != nil {
		t.Fatalf("%s: %v", env, err)
	}
	return path
}

// A Process is a server, which ends with the test.
type Process struct {
	cmd *exec.Cmd
	log string
}

// Start runs a program. What it prints is shown when the test fails.
func Start(t testing.TB, path string, args ...string) *Process {
	t.Helper()
	p := &Process{cmd: exec.Command(path, args...), log: filepath.Join(t.TempDir(), "log")} //nolint:noctx,gosec // Kill ends it; the path is the tester's
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(path), p.tail())
		}
	})
	return p
}

// Kill ends the process at once, as a power cut does. It may be called again.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	_ = p.cmd.Wait()
}

// tail returns the last lines of what the process printed.
func (p *Process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// Address returns one on the loopback interface that is free for UDP and TCP, and that nobody is given by chance while a server
// restarts: below those that systems hand out for port 0.
func Address(t testing.TB) string {
	t.Helper()
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000)) //nolint:gosec // any will do
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		pc, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", addr)
		_ = ln.Close()
		if err == nil {
			_ = pc.Close()
			return addr
		}
	}
}

// Eventually asks until cond holds.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}
