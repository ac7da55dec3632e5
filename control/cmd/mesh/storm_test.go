package main_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	member "github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/control/internal/etcdtest"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// nightly chooses the long variant of a test.
func nightly[T any](short, long T) T {
	if os.Getenv("MESH_NIGHTLY") != "" {
		return long
	}
	return short
}

// ledger is what was acknowledged.
type ledger struct {
	mu       sync.Mutex
	rules    map[string]uint64 // versions by document
	versions map[uint64]string
	tokens   map[string]*member.Bootstrap // by id
	enrolled map[string]bool              // ids
	failures map[string]int
}

func (l *ledger) counts() (rules, enrolled int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.rules), len(l.enrolled)
}

func (l *ledger) failed(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures[what]++
}

// TestStorm: three control planes on three etcd members go on enrolling and publishing while one of each is killed again and
// again, and whatever was acknowledged is there in the end.
func TestStorm(t *testing.T) {
	cluster := etcdtest.Start(t, 3, nil)
	dirs := newReplicas(t, 3, cluster.URL("mesh"))
	var planes []*process
	var clients []*admin.Client
	for _, dir := range dirs {
		p := serve(t, dir)
		planes, clients = append(planes, p), append(clients, p.client(t))
	}
	within(t, "each knows all", func(ctx context.Context) error {
		for _, c := range clients {
			if b, err := c.Bootstrap(ctx); err != nil || len(b.Control) != 3 {
				return fmt.Errorf("%v, %w", b, err)
			}
		}
		return nil
	})
	joinAs(t, member.Config{Bootstrap: token(t, clients[0], "follower")})
	l := &ledger{rules: map[string]uint64{}, versions: map[uint64]string{}, tokens: map[string]*member.Bootstrap{}, enrolled: map[string]bool{}, failures: map[string]int{}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() { publish(ctx, t, l, clients, w) })
		wg.Go(func() { enrolMany(ctx, l, clients) })
	}
	for round := range nightly(4, 20) {
		plane, etcd := round%3, cluster.Members[rand.IntN(3)]
		if round%2 == 0 {
			etcd = cluster.Leader(t)
		}
		rules, enrolled := l.counts()
		planes[plane].kill(t)
		etcd.Kill()
		within(t, "going on without them", func(context.Context) error {
			if r, e := l.counts(); r < rules+3 || e < enrolled+2 {
				return fmt.Errorf("round %d: %d rules and %d enrolments since the kill", round, r-rules, e-enrolled)
			}
			return nil
		})
		etcd.Start(t)
		cluster.Wait(t)
		planes[plane] = serve(t, dirs[plane])
	}
	stop()
	wg.Wait()
	check(t, l, clients)
}

func publish(ctx context.Context, t *testing.T, l *ledger, clients []*admin.Client, w int) {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("w%d-%d", w, n)
		for ctx.Err() == nil {
			r, err := clients[rand.IntN(len(clients))].Apply(ctx, []policy.Document{document(name, n)}, admin.ApplyOptions{})
			if err != nil {
				l.failed("apply")
				pause(ctx, 50*time.Millisecond)
				continue // at any of them
			}
			l.mu.Lock()
			if r.Changes[0].Change == "created" { // else it was stored without our hearing of it, and this is whatever version there is now
				if other, twice := l.versions[r.Version]; twice {
					t.Errorf("v%d was acknowledged for %s and for %s", r.Version, other, name)
				}
				l.versions[r.Version] = name
			}
			l.rules[name] = r.Version
			l.mu.Unlock()
			break
		}
		pause(ctx, 30*time.Millisecond)
	}
}

func enrolMany(ctx context.Context, l *ledger, clients []*admin.Client) {
	for ctx.Err() == nil {
		created, err := clients[rand.IntN(len(clients))].CreateToken(ctx, enrol.Spec{Services: []string{"storm"}, Uses: 1})
		if err != nil {
			l.failed("token")
			pause(ctx, 50*time.Millisecond)
			continue
		}
		id := created.Token.ID
		l.mu.Lock()
		l.tokens[id] = created.Bootstrap
		l.mu.Unlock()
		if rand.IntN(4) == 0 {
			continue // for the end
		}
		if err := enrolOnce(ctx, created.Bootstrap); err != nil {
			l.failed("enrol: " + strings.Join(strings.Fields(err.Error())[:min(8, len(strings.Fields(err.Error())))], " "))
		} else {
			l.mu.Lock()
			l.enrolled[id] = true
			l.mu.Unlock()
		}
		pause(ctx, 30*time.Millisecond)
	}
}

func enrolOnce(ctx context.Context, b *member.Bootstrap) error { return enrolAs(ctx, b, "storm") }

func enrolAs(ctx context.Context, b *member.Bootstrap, service string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	ca, err := identity.NewStepCA(ctx, identity.StepCAConfig{
		URL: b.CA, Others: b.OtherCAs, RootFingerprint: b.RootFingerprint, Token: b.Token,
		ID: spiffeid.RequireFromString("spiffe://example.test/" + service),
	})
	if err != nil {
		return err
	}
	return ca.Close()
}

func check(t *testing.T, l *ledger, clients []*admin.Client) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	last := uint64(0)
	for v := range l.versions {
		last = max(last, v)
	}
	for i, c := range clients {
		within(t, "each has the last version", func(ctx context.Context) error {
			r, err := c.Rules(ctx)
			if err == nil && r.Version < last {
				err = fmt.Errorf("replica %d has v%d, v%d was acknowledged", i, r.Version, last)
			}
			return err
		})
		r, err := c.Rules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		there := map[string]bool{}
		for _, d := range r.Documents {
			there[d.Metadata.Name] = true
		}
		for name, v := range l.rules {
			if !there[name] {
				t.Errorf("replica %d: %s, acknowledged as v%d, is lost", i, name, v)
			}
		}
		tokens, err := c.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		used := map[string]int{}
		for _, tok := range tokens {
			used[tok.ID] = tok.Used
		}
		for id := range l.tokens {
			n, there := used[id]
			if !there {
				t.Errorf("replica %d: token %s is lost", i, id)
			} else if l.enrolled[id] && n != 1 {
				t.Errorf("replica %d: token %s was used %d times", i, id, n)
			}
		}
	}
	again, fresh := 0, 0
	for id, b := range l.tokens {
		err := enrolOnce(t.Context(), b)
		switch {
		case l.enrolled[id] && err == nil:
			t.Errorf("token %s worked twice", id)
		case l.enrolled[id]:
			again++
		case err == nil:
			fresh++
		}
		if again+fresh > 40 {
			break
		}
	}
	within(t, "the member has the last version", func(ctx context.Context) error {
		s, err := clients[0].Status(ctx)
		if err == nil && (s.Members != 1 || !s.Done()) {
			err = fmt.Errorf("%v", s)
		}
		return err
	})
	t.Logf("%d rules, %d tokens, %d enrolments acknowledged; in between %v; in the end %d used tokens were refused and %d unused ones worked",
		len(l.rules), len(l.tokens), len(l.enrolled), l.failures, again, fresh)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// TestQuorumLost: without a quorum what runs goes on and what is written fails clearly; then all heals.
func TestQuorumLost(t *testing.T) {
	cluster := etcdtest.Start(t, 3, nil)
	dirs := newReplicas(t, 2, cluster.URL("mesh"))
	planes := []*process{serve(t, dirs[0]), serve(t, dirs[1])}
	c := planes[0].client(t)
	must(t, dirs[0], rules, "policy", "apply", "-f", "-")
	spare := token(t, c, "orders")
	joinAs(t, member.Config{Bootstrap: token(t, c, "payments")})
	joinAs(t, member.Config{Bootstrap: token(t, c, "orders")})
	must(t, dirs[0], "", "status", "--wait")

	lost := cluster.Members[1:]
	for _, m := range lost {
		m.Kill()
	}
	began := time.Now()
	for first := true; first || time.Since(began) < nightly(6*time.Second, 30*time.Second); first = false {
		for _, dir := range dirs { // reads go on, at each
			must(t, dir, "", "policy", "list")
			must(t, dir, "", "explain", "orders", "payments", "POST", "/charge")
			if out := must(t, dir, "", "status"); !strings.HasPrefix(out, "v2: at 2 of 2 members\n") {
				t.Errorf("status: %s", out)
			}
		}
		for _, args := range []string{"policy apply -f -", "token payments"} {
			if code, out, errs := mesh(t, dirs[0], strings.ReplaceAll(rules, "orders", "shop"), strings.Fields(args)...); code != 5 || !strings.Contains(errs, "no quorum") {
				t.Errorf("mesh %s: %d %s %s", args, code, out, errs)
			}
		}
	}
	if err := enrolAs(t.Context(), spare, "orders"); err == nil {
		t.Error("enrolled without a quorum")
	}
	for _, m := range lost {
		m.Start(t)
	}
	cluster.Wait(t)
	must(t, dirs[1], strings.ReplaceAll(rules, "/charge", "/refund"), "policy", "apply", "-f", "-")
	within(t, "all members follow again", func(ctx context.Context) error {
		s, err := c.Status(ctx)
		if err == nil && (s.Version < 3 || s.Current != 2) {
			err = fmt.Errorf("%v", s)
		}
		return err
	})
	joinAs(t, member.Config{Bootstrap: token(t, c, "ledger")})
}

// TestDamagedStore: a file that is not what was written is refused, and never replaced by an empty one.
func TestDamagedStore(t *testing.T) {
	dir := newPlane(t)
	p := serve(t, dir)
	must(t, dir, rules, "policy", "apply", "-f", "-")
	p.kill(t)
	path := filepath.Join(dir, "mesh-data", "store.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, data := range map[string][]byte{
		"cut off": whole[:len(whole)/2], "empty": nil, "scribbled": []byte(strings.Repeat("x", len(whole))),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		code, _, errs := mesh(t, dir, "", "serve")
		if code != 5 || !strings.Contains(errs, "is damaged") || !strings.Contains(errs, "from a snapshot") {
			t.Errorf("%s: %d %s", what, code, errs)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != string(data) {
			t.Errorf("%s: the file was changed: %v", what, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, dir)
	if out := must(t, dir, "", "policy", "list"); !strings.Contains(out, "payments-callers") {
		t.Errorf("put back: %s", out)
	}
}
