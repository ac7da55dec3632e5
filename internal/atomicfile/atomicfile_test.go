package atomicfile_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/intramesh/mesh/internal/atomicfile"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWriteReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, c := range []struct {
		data string
		perm fs.FileMode
	}{{"first", 0o600}, {"the second, longer", 0o644}, {"", 0o666}} {
		if err := atomicfile.Write(path, []byte(c.data), c.perm); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != c.data {
			t.Errorf("read %q, %v; want %q", got, err, c.data)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != c.perm {
			t.Errorf("mode %v, %v; want %v", info.Mode(), err, c.perm)
		}
	}
	wantOnly(t, dir, "state")
}

func TestWriteFailureLeavesOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	if err := os.MkdirAll(filepath.Join(path, "child"), 0o700); err != nil { // a rename onto it fails
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("x"), 0o600); err == nil {
		t.Fatal("a file replaced a directory that is not empty")
	}
	wantOnly(t, dir, "state")
	if err := atomicfile.Write(filepath.Join(dir, "missing", "state"), nil, 0o600); err == nil {
		t.Error("the directory was made up")
	}
}

func TestWriteRelative(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := atomicfile.Write("state", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, ".", "state")
}

func TestMkdirAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		if err := atomicfile.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v; want 0700", info.Mode(), err)
	}
	for perm, ok := range map[fs.FileMode]bool{0o755: true, 0o770: false, 0o777: false} {
		if err := os.Chmod(dir, perm); err != nil {
			t.Fatal(err)
		}
		if err := atomicfile.MkdirAll(dir); (err == nil) != ok {
			t.Errorf("mode %v: %v", perm, err)
		} else if err != nil && !strings.Contains(err.Error(), dir) {
			t.Errorf("error %q does not name the directory", err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.MkdirAll(file); err == nil {
		t.Error("a file passed for a directory")
	}
}

func wantOnly(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("directory holds %v; want only %s", entries, name)
	}
}
