//go:build unix

package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestQuickstart(t *testing.T) {
	r := start(t)
	if status := r.wait(t, limit); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	if !strings.Contains(r.out.String(), "all 9 steps hold") {
		t.Error("it does not say that all steps hold")
	}
	if bytes.Contains(r.out.Bytes(), []byte("\x1b")) {
		t.Error("escape sequences in a pipe")
	}
	if r.stderr.Len() > 0 {
		t.Error("something on standard error")
	}
	r.nothingLeft(t)
	t.Logf("in %v:\n%s", r.took, &r.out)
}

// TestDeath kills a process that the story needs, while the step after the given one runs: the run fails
// soon, and leaves nothing.
func TestDeath(t *testing.T) {
	for _, test := range []struct {
		victim string
		after  int
	}{
		{"control", 0}, {"orders", 0},
		{"control", 1}, {"payments-1", 1}, {"orders", 1},
		{"payments-2", 2}, {"control", 2},
		{"orders", 3}, {"payments-1", 3},
		{"payments-2", 5}, {"orders", 5},
		{"control", 6}, {"orders", 7}, {"payments-2", 8},
	} {
		t.Run(fmt.Sprintf("%s after step %d", test.victim, test.after), func(t *testing.T) {
			t.Parallel()
			r := start(t)
			r.after(t, test.after)
			eventually(t, func() error {
				pid := r.pid(test.victim)
				if pid == 0 {
					return errors.New("no pid yet")
				}
				return syscall.Kill(pid, syscall.SIGKILL)
			})
			if status := r.wait(t, afterDeath); status != 1 {
				t.Errorf("exit status %d, want 1", status)
			}
			if !strings.Contains(r.stderr.String(), test.victim+" (pid") {
				t.Errorf("it does not say that %s died", test.victim)
			}
			r.nothingLeft(t)
		})
	}
}

func TestInterrupt(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			r := start(t)
			r.after(t, 2)
			_ = r.cmd.Process.Signal(sig)
			if status := r.wait(t, afterDeath); status != 130 {
				t.Errorf("exit status %d, want 130", status)
			}
			r.nothingLeft(t)
		})
	}
}

// TestParentDies: nobody is there to end the processes, so they end themselves.
func TestParentDies(t *testing.T) {
	t.Parallel()
	r := start(t)
	r.after(t, 3)
	_ = r.cmd.Process.Kill()
	r.wait(t, afterDeath)
	r.nothingLeft(t)
}

func TestKeep(t *testing.T) {
	t.Parallel()
	r := start(t, "-keep")
	r.after(t, 10)
	_ = r.cmd.Process.Signal(os.Interrupt)
	if status := r.wait(t, afterDeath); status != 0 {
		t.Errorf("exit status %d", status)
	}
	r.nothingLeft(t)
}

func TestUsage(t *testing.T) {
	t.Parallel()
	r := start(t, "nonsense")
	if status := r.wait(t, afterDeath); status != 2 {
		t.Errorf("exit status %d, want 2", status)
	}
}
