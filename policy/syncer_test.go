package policy_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh/policy"
)

const allowOrders = `"rules":[{"from":[{"services":["orders"]}]}]`

// answer is what a fake control plane says to one fetch.
type answer struct {
	data []byte
	err  error
	wait bool // until the fetch is given up
}

// asked is one fetch, at the time since the test began.
type asked struct {
	policy.FetchRequest
	at time.Duration
}

// server answers fetches in order, and then waits.
type server struct {
	began   time.Time
	answers []answer
	asked   []asked
}

func (s *server) fetch(ctx context.Context, r policy.FetchRequest) ([]byte, error) {
	s.asked = append(s.asked, asked{r, time.Since(s.began)})
	if len(s.asked) > len(s.answers) || s.answers[len(s.asked)-1].wait {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	a := s.answers[len(s.asked)-1]
	return a.data, a.err
}

func newSyncer(t testing.TB, change func(*policy.SyncConfig)) *policy.Syncer {
	t.Helper()
	cfg := policy.SyncConfig{TrustDomain: prod, Keys: publicKeys(testKey(1))}
	if change != nil {
		change(&cfg)
	}
	s, err := policy.NewSyncer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// follow runs a syncer against the answers for a while of virtual time.
func follow(t *testing.T, d time.Duration, log *bytes.Buffer, answers ...answer) (*policy.Syncer, []asked) {
	t.Helper()
	srv := &server{began: time.Now(), answers: answers}
	s := newSyncer(t, func(cfg *policy.SyncConfig) {
		cfg.Fetch = srv.fetch
		if log != nil {
			cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
		}
	})
	s.Start()
	s.Start()
	<-time.After(d)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return s, srv.asked
}

func verdict(t testing.TB, a policy.Authorizer) policy.Verdict {
	t.Helper()
	return a.Authorize(t.Context(), request(t, nil)).Verdict
}

func TestSyncerFollows(t *testing.T) {
	one, two := signed(t, 1), signed(t, 2, doc("p", "payments", "allow", allowOrders))
	synctest.Test(t, func(t *testing.T) {
		srv := &server{began: time.Now(), answers: []answer{{data: one}, {data: two}}}
		s := newSyncer(t, func(cfg *policy.SyncConfig) { cfg.Fetch = srv.fetch })
		if d := s.Authorize(t.Context(), request(t, nil)); d.Verdict != policy.Deny || d.Version != 0 || d.Reason != "no rules have been received yet" {
			t.Errorf("before the first bundle: %v", d)
		}
		if s.Bundle() != nil || s.Version() != 0 {
			t.Error("there is a bundle before the first one")
		}
		before := s.Changed()
		s.Start()
		if err := s.WaitFirst(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-before
		synctest.Wait()
		if verdict(t, s) != policy.Allow || s.Version() != 2 || !bytes.Equal(s.Bundle(), two) || s.Engine().Version() != 2 {
			t.Errorf("v%d is in force: %v", s.Version(), verdict(t, s))
		}
		after := s.Changed()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
		if verdict(t, s) != policy.Allow {
			t.Error("closing took the rules away")
		}
		select {
		case <-after:
			t.Error("told of a change that was none")
		default:
		}
		want := []policy.FetchRequest{{}, {After: 1}, {After: 2}}
		for i, a := range srv.asked {
			if a.FetchRequest != want[i] || a.at != 0 {
				t.Errorf("fetch %d: %+v at %v, want %+v at once", i, a.FetchRequest, a.at, want[i])
			}
		}
	})
}

func TestSyncerBacksOff(t *testing.T) {
	good := signed(t, 1)
	synctest.Test(t, func(t *testing.T) {
		var answers []answer
		for range 12 {
			answers = append(answers, answer{err: errors.New("control plane is gone")})
		}
		answers = append(answers, answer{data: good}, answer{err: errors.New("gone again")})
		var log bytes.Buffer
		s, fetches := follow(t, 10*time.Minute, &log, answers...)
		if len(fetches) < 15 || s.Version() != 1 {
			t.Fatalf("%d fetches, v%d", len(fetches), s.Version())
		}
		wait := 250 * time.Millisecond
		for i := 1; i <= 12; i++ {
			if d := fetches[i].at - fetches[i-1].at; d > wait || d < wait/2 {
				t.Errorf("waited %v after failure %d, want %v to %v", d, i, wait/2, wait)
			}
			wait = min(2*wait, 30*time.Second)
		}
		if d := fetches[13].at - fetches[12].at; d != 0 {
			t.Errorf("waited %v after a good bundle", d)
		}
		if d := fetches[14].at - fetches[13].at; d > 250*time.Millisecond {
			t.Errorf("waited %v after the first failure since: success did not reset the backoff", d)
		}
		if !strings.Contains(log.String(), "control plane is gone") || !strings.Contains(log.String(), "failures=12") {
			t.Errorf("the log does not tell:\n%s", log.String())
		}
	})
}

func TestSyncerPollsWithoutHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A server that answers "nothing new" at once must not be asked in a loop.
		_, fetches := follow(t, 10*time.Second, nil, make([]answer, 1000)...)
		if len(fetches) < 15 || len(fetches) > 25 {
			t.Errorf("%d fetches in 10 s of empty answers, want about 20", len(fetches))
		}
		// One that never answers is given up.
		_, fetches = follow(t, 5*time.Minute, nil, answer{wait: true})
		if len(fetches) != 3 || fetches[1].at < 2*time.Minute {
			t.Errorf("fetches of a silent server: %+v", fetches)
		}
	})
}

func TestSyncerRefuses(t *testing.T) {
	v5 := signed(t, 5, doc("p", "payments", "allow", allowOrders))
	tampered := bytes.Replace(signed(t, 9), []byte(`"version":9`), []byte(`"version":8`), 1)
	tests := []struct {
		name    string
		data    []byte
		refused uint64
		reason  string
	}{
		{"older", signed(t, 4), 4, "bundle v4 refused: v5 is in force"},
		{"same version, other rules", signed(t, 5), 5, "bundle v5 refused: v5 is in force"},
		{"tampered", tampered, 8, "does not hold"},
		{"unknown key", signPayload(t, `{"version":9}`, testKey(2)), 9, "is unknown"},
		{"not evaluable", signPayload(t, `{"trustDomain":"prod.example","version":6,"issued":"2026-01-02T03:04:05Z","documents":[],"quotas":[]}`, testKey(1)), 6, "quotas: unknown field"},
		{"other mesh", signPayload(t, `{"trustDomain":"evil","version":6,"issued":"2026-01-02T03:04:05Z","documents":[]}`, testKey(1)), 6, "trust domain"},
		{"garbage", []byte("<html>"), 0, "not a signed bundle"},
		{"empty", []byte{}, 0, "not a signed bundle"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			newer := signed(t, 10)
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				s, fetches := follow(t, time.Second, &log, answer{data: v5}, answer{data: tt.data})
				if s.Version() != 5 || verdict(t, s) != policy.Allow {
					t.Errorf("v%d is in force", s.Version())
				}
				last := fetches[len(fetches)-1]
				if len(fetches) != 3 || last.After != 5 || last.Refused != tt.refused || !strings.Contains(last.Reason, tt.reason) || last.at == 0 {
					t.Errorf("the refusal was reported as %+v", last)
				}
				if !strings.Contains(log.String(), "level=ERROR") {
					t.Errorf("the log does not tell:\n%s", log.String())
				}
				_, fetches = follow(t, time.Second, nil, answer{data: v5}, answer{data: tt.data}, answer{data: newer})
				if last := fetches[3]; last.FetchRequest != (policy.FetchRequest{After: 10}) {
					t.Errorf("after a good bundle it still reports %+v", last)
				}
			})
		})
	}
}

func TestApply(t *testing.T) {
	s := newSyncer(t, nil)
	s.Start() // nothing to fetch from: does nothing
	good := signed(t, 2)
	if err := s.Apply(good); err != nil {
		t.Fatal(err)
	}
	changed := s.Changed()
	if err := s.Apply(bytes.Clone(good)); err != nil {
		t.Errorf("the same bundle again: %v", err)
	}
	if err := s.Apply(signed(t, 1)); !errors.Is(err, policy.ErrOlder) {
		t.Errorf("an older one: %v", err)
	}
	select {
	case <-changed:
		t.Error("told of a change that was none")
	default:
	}
	data := signed(t, 3)
	if err := s.Apply(data); err != nil {
		t.Fatal(err)
	}
	<-changed
	clear(data)
	if _, err := policy.Open(s.Bundle(), publicKeys(testKey(1)), prod); err != nil {
		t.Errorf("the bundle changed with the caller's slice: %v", err)
	}
	_ = s.Close()
	if err := s.Apply(signed(t, 4)); !errors.Is(err, policy.ErrSyncerClosed) {
		t.Errorf("closed: %v", err)
	}
}

// TestChangeUnderLoad decides while the rules change: each goroutine sees versions grow only, and
// nobody misses the last change.
func TestChangeUnderLoad(t *testing.T) {
	const last = 40
	s := newSyncer(t, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			seen := uint64(0)
			for seen < last {
				changed := s.Changed()
				d := s.Authorize(t.Context(), request(t, nil))
				if d.Version < seen || (d.Verdict == policy.Allow) != (d.Version%2 == 1) {
					t.Errorf("after v%d: %v of v%d", seen, d, d.Version)
					return
				}
				if seen = d.Version; seen < last {
					<-changed
				}
			}
		})
	}
	for v := range uint64(last) {
		spec := "" // an even version allows nobody
		if v%2 == 0 {
			spec = allowOrders
		}
		if err := s.Apply(signed(t, v+1, doc("p", "payments", "allow", spec))); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

func TestWaitFirst(t *testing.T) {
	s := newSyncer(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.WaitFirst(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	_ = s.Close()
	if err := s.WaitFirst(t.Context()); !errors.Is(err, policy.ErrSyncerClosed) {
		t.Errorf("closed: %v", err)
	}
	s = newSyncer(t, nil)
	if err := s.Apply(signed(t, 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitFirst(ctx); err != nil {
		t.Errorf("there are rules, and yet %v", err)
	}
}

func TestRestartEnforcesLastGood(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "rules")
	inDir := func(cfg *policy.SyncConfig) { cfg.Dir = dir }
	s := newSyncer(t, inDir)
	if verdict(t, s) != policy.Deny {
		t.Error("a new directory allows")
	}
	if err := s.Apply(signed(t, 4, doc("p", "payments", "allow", allowOrders))); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	file := filepath.Join(dir, "bundle")
	for name, want := range map[string]fs.FileMode{dir: fs.ModeDir | 0o700, file: 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want mode %v", name, info.Mode(), err, want)
		}
	}

	s = newSyncer(t, inDir)
	if err := s.WaitFirst(t.Context()); err != nil {
		t.Fatal(err)
	}
	if verdict(t, s) != policy.Allow || s.Version() != 4 {
		t.Errorf("after a restart v%d is in force: %v", s.Version(), verdict(t, s))
	}
	if err := s.Apply(signed(t, 3)); !errors.Is(err, policy.ErrOlder) {
		t.Errorf("a restart forgot the version: %v", err)
	}
	_ = s.Close()

	// A key that is no longer trusted, and a file that was changed: nothing is enforced.
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Replace(good, []byte("orders"), []byte("others"), 1)
	for name, change := range map[string]struct {
		data []byte
		key  byte
	}{"other key": {good, 2}, "tampered": {flipped, 1}, "cut": {good[:len(good)/2], 1}, "empty": {nil, 1}, "huge": {make([]byte, 17<<20), 1}} {
		if err := os.WriteFile(file, change.data, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		s := newSyncer(t, func(cfg *policy.SyncConfig) {
			cfg.Dir, cfg.Keys, cfg.Logger = dir, publicKeys(testKey(change.key)), slog.New(slog.NewTextHandler(&log, nil))
		})
		if verdict(t, s) != policy.Deny || s.Version() != 0 || !strings.Contains(log.String(), "unusable") {
			t.Errorf("%s: v%d, log %q", name, s.Version(), log.String())
		}
		if change.key == 1 {
			if err := s.Apply(signed(t, 1)); err != nil || s.Version() != 1 {
				t.Errorf("%s: a good bundle does not mend it: %v", name, err)
			}
		}
	}
}

func TestDiskThatFailsDoesNotHoldRulesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rules")
	var log bytes.Buffer
	s := newSyncer(t, func(cfg *policy.SyncConfig) { cfg.Dir, cfg.Logger = dir, slog.New(slog.NewTextHandler(&log, nil)) })
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(signed(t, 1)); err != nil || s.Version() != 1 || !strings.Contains(log.String(), "could not be kept") {
		t.Errorf("v%d, %v, log %q", s.Version(), err, log.String())
	}
}

func TestNewSyncerChecks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]policy.SyncConfig{
		"trust domain": {Keys: publicKeys(testKey(1))},
		"keys":         {TrustDomain: prod},
		"key size":     {TrustDomain: prod, Keys: append(publicKeys(testKey(1)), nil)},
		"dir":          {TrustDomain: prod, Keys: publicKeys(testKey(1)), Dir: file},
	} {
		if s, err := policy.NewSyncer(cfg); err == nil {
			_ = s.Close()
			t.Errorf("%s: no error", name)
		}
	}
}
