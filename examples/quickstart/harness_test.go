//go:build unix

package main_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	// limit is what a run may take; a run in which something was killed must end sooner.
	limit      = 45 * time.Second
	afterDeath = 20 * time.Second
)

var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "quickstart-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "quickstart")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", program, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	cleanup := goleak.Cleanup(func(status int) {
		os.RemoveAll(dir)
		os.Exit(status)
	})
	// glog, below smallstep's badger, starts it when it is linked in.
	goleak.VerifyTestMain(m, cleanup, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

// A run is a quickstart under test.
type run struct {
	cmd    *exec.Cmd
	tmp    string
	out    bytes.Buffer // standard output, complete when done is closed
	stderr bytes.Buffer
	done   chan struct{}
	begun  time.Time
	took   time.Duration

	mu    sync.Mutex
	pids  map[string]int // of the processes, as last printed
	all   []int
	steps int
	moved chan struct{} // closed and replaced when steps changes
}

var (
	stepLine = regexp.MustCompile(`^ ?(\d+)  \S`)
	pidLine  = regexp.MustCompile(`^ {4}(\S+) +pid (\d+)`)
)

func start(t *testing.T, args ...string) *run {
	t.Helper()
	tmp, err := os.MkdirTemp("", "qs-") //nolint:usetesting // short: a unix socket's name has 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	r := &run{
		cmd: exec.CommandContext(t.Context(), program, args...), tmp: tmp, begun: time.Now(),
		done: make(chan struct{}), pids: map[string]int{}, moved: make(chan struct{}),
	}
	r.cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	r.cmd.Stderr = &r.stderr
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.all = []int{r.cmd.Process.Pid}
	go func() {
		defer close(r.done)
		lines := bufio.NewScanner(io.TeeReader(stdout, &r.out))
		for lines.Scan() {
			r.read(lines.Text())
		}
		_ = r.cmd.Wait() // ProcessState has it
		r.took = time.Since(r.begun)
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.done
		os.RemoveAll(tmp)
		if t.Failed() {
			t.Logf("standard output:\n%s\nstandard error:\n%s", &r.out, &r.stderr)
		}
	})
	return r
}

func (r *run) read(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := pidLine.FindStringSubmatch(line); m != nil {
		pid, _ := strconv.Atoi(m[2])
		r.pids[m[1]] = pid
		r.all = append(r.all, pid)
	}
	m := stepLine.FindStringSubmatch(line)
	if strings.Contains(line, "export MESH_DIR") {
		m = []string{"", "10"} // with -keep, after the last step
	}
	if m != nil {
		r.steps, _ = strconv.Atoi(m[1])
		close(r.moved)
		r.moved = make(chan struct{})
	}
}

// pid returns that of a process, as printed, or, before that, as Linux tells; 0 means not yet.
func (r *run) pid(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pids[name] != 0 {
		return r.pids[name]
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", r.cmd.Process.Pid))
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for child := range strings.FieldsSeq(string(children)) {
			if args, _ := os.ReadFile("/proc/" + child + "/cmdline"); bytes.HasSuffix(args, []byte("\x00"+name+"\x00")) {
				pid, _ := strconv.Atoi(child)
				r.all = append(r.all, pid)
				return pid
			}
		}
	}
	return 0
}

// after waits until step n has been printed with its details, which is when the next one runs.
func (r *run) after(t *testing.T, n int) {
	t.Helper()
	timeout := time.After(limit)
	for {
		r.mu.Lock()
		have, moved := r.steps, r.moved
		r.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-moved:
		case <-r.done:
			t.Fatalf("ended before step %d was done", n)
		case <-timeout:
			t.Fatalf("step %d not done after %v", n, limit)
		}
	}
}

func (r *run) wait(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(limit):
		t.Fatalf("still running after %v", limit)
	}
	return r.cmd.ProcessState.ExitCode()
}

// nothingLeft demands that the processes are gone and the temporary directory is empty.
func (r *run) nothingLeft(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		for _, pid := range r.all {
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) && !zombie(pid) {
				return fmt.Errorf("process %d is still there", pid)
			}
		}
		files, err := os.ReadDir(r.tmp)
		if err == nil && len(files) > 0 {
			err = fmt.Errorf("%s is still there", files[0].Name())
		}
		return err
	})
}

// zombie tells a process that has ended, and that nobody waits for (its parent is dead, and no init here
// adopts it), from one that runs.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); ; <-tick.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
