package health_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/health"
	"github.com/intramesh/mesh/meshtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pass(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // virtual time

// TestWatch: the others are told that a process starts until its application is well, and whenever it has not been for a while.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval, timeout = 10 * time.Second, time.Second
		m := meshtest.New(t).Join(t, "payments")
		var asked atomic.Int32
		var wrong atomic.Pointer[error]
		say := func(err error) { wrong.Store(&err) }
		say(errors.New("warming up"))
		errHang := errors.New("hang")
		check := func(ctx context.Context) error {
			asked.Add(1)
			err := *wrong.Load()
			if errors.Is(err, errHang) {
				<-ctx.Done()
			}
			return err
		}
		want := func(when string, want discovery.State) {
			t.Helper()
			synctest.Wait()
			if got, _ := m.State(); got != want {
				t.Fatalf("%s: %v, want %v", when, got, want)
			}
		}
		// times lets n checks pass.
		times := func(n int32) {
			for until := asked.Load() + n; asked.Load() < until; synctest.Wait() {
				pass(10 * time.Millisecond)
			}
		}
		stop := health.Watch(m, check, health.Config{Interval: interval, Timeout: timeout})
		want("before the first check", discovery.Starting)
		start := time.Now()
		times(3)
		if took := time.Since(start); took > time.Second {
			t.Errorf("the first checks took %v", took)
		}
		say(nil)
		times(1)
		want("the first that succeeds", discovery.Ready)
		say(errors.New("database away"))
		start = time.Now()
		times(2)
		if took := time.Since(start); took < 2*interval*9/10 || took > 2*interval*11/10+time.Second {
			t.Errorf("two checks in %v", took)
		}
		want("two failures", discovery.Ready)
		say(nil)
		times(1)
		say(errors.New("database away"))
		times(2)
		want("two failures again", discovery.Ready)
		times(1)
		want("three in a row", discovery.Starting)
		say(nil)
		times(1)
		want("one success", discovery.Starting)
		times(1)
		want("two", discovery.Ready)
		say(errHang)
		times(3)
		pass(timeout)
		want("it hangs", discovery.Starting)
		stop()
		stop()
		n := asked.Load()
		pass(time.Hour)
		if asked.Load() != n {
			t.Error("asked after stop")
		}

		stop = health.Watch(m, func(context.Context) error { return nil }, health.Config{})
		want("watched anew", discovery.Ready)
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		synctest.Wait() // it has ended by itself, or the bubble never would
		stop()
		want("closed", discovery.Draining)
	})
}

func TestHTTP(t *testing.T) {
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/large":
			_, _ = w.Write(make([]byte, 1<<20))
		case "/headers":
			w.Header().Set("X", strings.Repeat("x", 1<<17))
		case "/moved":
			http.Redirect(w, r, "/large", http.StatusFound)
		case "/ill":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/hangs":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-done:
			}
		}
	}))
	defer srv.Close()
	defer close(done)
	for path, want := range map[string]string{"/": "", "/large": "", "/headers": "headers", "/moved": "302", "/ill": "503", "/hangs": "deadline"} {
		check, err := health.HTTP(strings.Replace(srv.URL, "://", "://user:secret@", 1) + path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err = check(ctx)
		cancel()
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, bad := range []string{"", "127.0.0.1:8080/healthz", "/healthz", "ftp://127.0.0.1/", "http://", "http://[::1"} {
		if _, err := health.HTTP(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
