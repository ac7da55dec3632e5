package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const ghostunnelVersion = "v1.8.4"

func ghostunnelFile() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "intramesh-bench", "ghostunnel-"+ghostunnelVersion), nil
}

// program finds a sidecar's program: an installed one, or the one that buildGhostunnel made.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || name != "ghostunnel" {
		return path, err
	}
	file, ferr := ghostunnelFile()
	if ferr != nil {
		return "", ferr
	}
	if _, ferr := os.Stat(file); ferr != nil {
		return "", err
	}
	return file, nil
}

// buildGhostunnel builds ghostunnel of its Go module into the user's cache, once. It needs a C compiler, for PKCS #11.
// The module is built as the main one, since then its own go.sum vouches for what it needs; its vendor directory is not all in it.
func buildGhostunnel(ctx context.Context) error {
	if _, err := program("ghostunnel"); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	file, err := ghostunnelFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	source, err := os.MkdirTemp("", "ghostunnel")
	if err != nil {
		return err
	}
	defer os.RemoveAll(source)
	goIn := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // the arguments are below
		cmd.Dir, cmd.Env = source, append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("go %s: %w", args[0], err)
		}
		return out, nil
	}
	out, err := goIn("mod", "download", "-json", "github.com/ghostunnel/ghostunnel@"+ghostunnelVersion)
	if err != nil {
		return err
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return err
	}
	if err := os.CopyFS(source, os.DirFS(module.Dir)); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(source, "vendor")); err != nil {
		return err
	}
	_, err = goIn("build", "-o", file, ".")
	return err
}
