// Package atomicfile writes files that a crash leaves either old or new, never half written.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Write replaces the file at path by one that holds data and has exactly the mode perm,
// whatever the umask. When it returns nil the change survives a power cut; when it fails
// the old file is as it was. The directory must exist. A symbolic link at path is
// replaced, not followed.
func Write(path string, data []byte, perm fs.FileMode) (err error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	f, err := os.CreateTemp(dir, "."+base+".tmp*") // 0600 from birth
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // the error that counts is already in hand
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // a directory can't be opened for that there
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// MkdirAll makes dir and its missing parents, for their owner alone (0700). It refuses
// a directory that others may write to, since they could replace the files in it; one that
// others may only read is accepted as it is.
func MkdirAll(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("directory %s may be written by others (mode %04o): run chmod go-w on it, or use another one", dir, perm)
	}
	return nil
}
