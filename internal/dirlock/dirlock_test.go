package dirlock_test

import (
	"errors"
	"testing"

	"github.com/intramesh/mesh/internal/dirlock"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAcquire(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // what was given back can be had again
		f, err := dirlock.Acquire(dir)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := dirlock.Acquire(dir); !errors.Is(err, dirlock.ErrLocked) {
			t.Errorf("a directory that is taken: %v", err)
			again.Close()
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := dirlock.Acquire(dir + "/none"); err == nil || errors.Is(err, dirlock.ErrLocked) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
