// Package dirlock keeps two processes out of one directory.
package dirlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrLocked is inside the error of [Acquire] when somebody else has the directory.
var ErrLocked = errors.New("it is in use by another process, or twice in this one")

const name = "lock"

// Acquire takes a directory, which must be there, until the file that it returns is closed or the process ends, however that happens.
// Where the operating system has no flock(2) it keeps nobody out.
func Acquire(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), f.Close())
	}
	return f, nil
}
