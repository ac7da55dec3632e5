// Mutate breaks the code that decides, in one place at a time, and runs the tests that have to notice. It is the negative control
// of the tests: a mutant that they let live is a test that is missing.
//
//	go run ./internal/mutate            # from the root of the repository; all mutants
//	go run ./internal/mutate -run path  # those whose name matches
//
// It changes no file: the broken one reaches the compiler by -overlay. It exits with 1 when a mutant lives, does not
// compile, or no longer finds the text that it changes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

// A mutant replaces one text, which has to be there exactly once, in one file.
type mutant struct {
	name, file, old, new string
	tests                string // what -run gets; the package is that of the file
}

// testTimeout bounds the tests of one mutant: one that hangs them is noticed, too.
const testTimeout = time.Minute

func main() {
	run := flag.String("run", "", "only mutants whose name matches the regular expression")
	flag.Parse()
	if err := mutate(context.Background(), os.Stdout, *run); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func mutate(ctx context.Context, out io.Writer, run string) error {
	match, err := regexp.Compile(run)
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards what follows
	var failed, tried int
	var wg sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	for _, m := range mutants {
		if !match.MatchString(m.name) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			start := time.Now()
			verdict, err := m.try(ctx)
			mu.Lock()
			defer mu.Unlock()
			tried++
			if err != nil {
				failed++
				verdict = "FAILED: " + err.Error()
			}
			fmt.Fprintf(out, "%-52s %s (%.1f s)\n", m.name, verdict, time.Since(start).Seconds())
		})
	}
	wg.Wait()
	fmt.Fprintf(out, "%d of %d mutants killed\n", tried-failed, tried)
	if failed > 0 || tried == 0 {
		return errors.New("the tests miss something, or the list is out of date")
	}
	return nil
}

// try returns which test killed the mutant.
func (m mutant) try(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	code, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(code), m.old); n != 1 {
		return "", fmt.Errorf("%q is %d times in %s", m.old, n, m.file)
	}
	broken, overlay, binary := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "test.bin")
	if err := os.WriteFile(broken, []byte(strings.Replace(string(code), m.old, m.new, 1)), 0o600); err != nil { //nolint:gosec // in a directory of ours
		return "", err
	}
	file, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {file: broken}})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*testTimeout)
	defer cancel()
	pkg := "./" + filepath.Dir(m.file)
	if b, err := exec.CommandContext(ctx, "go", "test", "-c", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, pkg).CombinedOutput(); err != nil { //nolint:gosec // our own list
		return "", fmt.Errorf("it does not compile: %w\n%s", err, b)
	}
	args := []string{"-test.run", m.tests, "-test.failfast", "-test.timeout", testTimeout.String()}
	if m.tests == model { // enough random runs to find it for sure, and no time to tell which is the shortest
		args = append(args, "-rapid.checks=1000", "-rapid.shrinktime=1ms")
	}
	cmd := exec.CommandContext(ctx, binary, args...) //nolint:gosec // our own binary
	cmd.Dir, cmd.Env = filepath.Dir(m.file), append(os.Environ(), "MESH_NIGHTLY=", "RAPID_NOFAILFILE=true")
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", errors.New("it lives")
	case !errors.As(err, &exit):
		return "", err
	}
	if found := regexp.MustCompile(`(?m)^--- FAIL: (\S+)`).FindSubmatch(b); found != nil {
		return "killed by " + string(found[1]), nil
	}
	return "killed", nil
}
