package deadline_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/internal/deadline"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d deadline.Deadline
		if d.Passed() {
			t.Error("the zero Deadline has passed")
		}
		waiting := d.Done()
		start := time.Now()
		d.Set(start.Add(time.Second))
		<-waiting
		if took := time.Since(start); took != time.Second || !d.Passed() {
			t.Errorf("passed %v after %v", d.Passed(), took)
		}

		d.Set(start.Add(time.Hour)) // moved: whoever asks again waits again
		later := d.Done()
		if d.Passed() || later == waiting {
			t.Error("a deadline that was moved into the future has passed")
		}
		d.Set(time.Now().Add(time.Second)) // moved nearer: the same channel
		<-later
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("after %v", took)
		}

		d.Set(time.Now().Add(-time.Second))
		if !d.Passed() {
			t.Error("a deadline in the past has not passed when Set returns")
		}
		d.Set(time.Time{})
		if d.Passed() {
			t.Error("a removed deadline has passed")
		}
		never := d.Done()
		select {
		case <-never:
			t.Error("a removed deadline passes")
		case <-time.After(24 * time.Hour):
		}
	})
}

// Timers that fire while they are moved must neither deadlock nor close a channel twice.
func TestDeadlineRaces(t *testing.T) {
	var d deadline.Deadline
	for i := range 2000 {
		d.Set(time.Now().Add(time.Duration(i%50) * time.Microsecond))
		d.Done()
	}
	d.Set(time.Time{})
	if d.Passed() {
		t.Error("passed after it was removed")
	}
}
