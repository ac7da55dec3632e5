package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/meshtest"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"
)

// versions is an Authorizer that a test takes from one version of the rules to another. The rules of a version are the same at everybody.
type versions struct {
	mu      sync.Mutex
	engine  *policy.Engine
	changed chan struct{}
}

func newVersions(e *policy.Engine) *versions {
	return &versions{engine: e, changed: make(chan struct{})}
}

func (v *versions) set(e *policy.Engine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.engine = e
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *versions) Engine() *policy.Engine {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.engine
}

func (v *versions) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

func (v *versions) Authorize(ctx context.Context, r *policy.Request) policy.Decision {
	return v.Engine().Authorize(ctx, r)
}

func (v *versions) Early(r *policy.Request, callee uint64) (policy.Decision, bool) {
	return v.Engine().Early(r, callee)
}

// engineOf makes the rules of one version: orders may call payments' raw port, and request these paths of its web port.
func engineOf(t testing.TB, version uint64, raw bool, paths ...string) *policy.Engine {
	t.Helper()
	doc := func(name, to string) string {
		return `{"apiVersion":"mesh/v1","kind":"Authorization","metadata":{"name":"` + name + `"},"spec":{"service":"payments","action":"allow",
			"rules":[{"from":[{"services":["orders"]}],"to":[` + to + `]}]}}`
	}
	var docs []string
	if raw {
		docs = append(docs, doc("raw", `{"ports":["raw"]}`))
	}
	if len(paths) > 0 {
		docs = append(docs, doc("web", `{"ports":["web"],"paths":["`+strings.Join(paths, `","`)+`"]}`))
	}
	parsed, err := policy.Parse("", []byte(strings.Join(docs, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	e, err := policy.Compile(&policy.Bundle{TrustDomain: spiffeid.RequireTrustDomainFromString(meshtest.TrustDomain), Version: version, Documents: parsed})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// earlyWorld is orders, which calls payments. Each has rules of its own.
type earlyWorld struct {
	t                    testing.TB
	payments, orders     *mesh.Mesh
	atPayments, atOrders *versions
	log                  bytes.Buffer
	stop                 func()
}

func newEarlyWorld(t *testing.T, e *policy.Engine) *earlyWorld {
	n := meshtest.New(t)
	w := &earlyWorld{t: t, atPayments: newVersions(e), atOrders: newVersions(e)}
	w.payments = n.JoinConfig(t, mesh.Config{Service: "payments", Policy: w.atPayments, Logger: slog.New(slog.DiscardHandler)})
	w.orders = n.JoinConfig(t, mesh.Config{Service: "orders", Policy: w.atOrders, Logger: slog.New(slog.NewTextHandler(&lockedWriter{w: &w.log}, nil))})
	web, err := w.payments.Listen(t.Context(), "tcp", ":0", mesh.ListenOptions{Port: "web"})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := w.payments.Listen(t.Context(), "tcp", ":0", mesh.ListenOptions{Port: "raw"})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: w.payments.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), "web"), ReadHeaderTimeout: time.Hour}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(web) })
	wg.Go(func() {
		for {
			c, err := raw.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	w.stop = func() {
		_ = w.orders.Close()
		_ = w.payments.Close()
		_ = srv.Close()
		wg.Wait()
	}
	return w
}

// call makes one call: to the raw port with path "", else a request. It returns the denial, nil if there is none, and whether the callee
// was spared.
func (w *earlyWorld) call(path string) (denied *mesh.DeniedError, early bool) {
	w.t.Helper()
	before := w.orders.Stats().Early
	if path == "" {
		return w.callRaw(), w.orders.Stats().Early > before
	}
	body := &countedBody{Reader: strings.NewReader("x")}
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, "http://_web.payments"+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := w.orders.HTTPClient().Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	problem, err := io.ReadAll(resp.Body)
	denied, ok := mesh.DeniedFromResponse(resp)
	if err != nil || ok != (resp.StatusCode == http.StatusForbidden) || ok && !strings.Contains(string(problem), "rules v") || resp.Request.URL.Path != path {
		w.t.Fatalf("%s, %s, %v", resp.Status, problem, err)
	}
	early = w.orders.Stats().Early > before
	if early && body.closed != 1 {
		w.t.Errorf("the request's body was closed %d times", body.closed)
	}
	return denied, early
}

// callRaw makes a call to the raw port. A connection that is used again may turn out to have been closed meanwhile: then there is another.
func (w *earlyWorld) callRaw() *mesh.DeniedError {
	w.t.Helper()
	var last error
	for range 3 {
		c, err := w.orders.Dial(w.t.Context(), "tcp", "payments:raw")
		if err == nil {
			err = ping(c)
			_ = c.Close()
		}
		if d, ok := errors.AsType[*mesh.DeniedError](err); ok || err == nil {
			return d
		}
		last = err
	}
	w.t.Fatal(last)
	return nil
}

type countedBody struct {
	io.Reader
	closed int
}

func (c *countedBody) Close() error {
	c.closed++
	return nil
}

func TestEarlyDenial(t *testing.T) {
	for _, path := range []string{"", "/secret"} {
		w := newEarlyWorld(t, engineOf(t, 1, false, "/open"))
		defer w.stop()
		first, early := w.call(path)
		if first == nil || early {
			t.Fatalf("%q: the first call: %v, early %v", path, first, early)
		}
		stats := w.payments.Stats()
		second, early := w.call(path)
		if !early || second.Error() != first.Error() || second.Policy != first.Policy || second.Rule != first.Rule || second.Layer != first.Layer || second.Version != 1 {
			t.Errorf("%q: early %v: %v, want %v", path, early, second, first)
		}
		if now := w.payments.Stats(); now != stats {
			t.Errorf("%q: the callee noticed: %+v, before %+v", path, now, stats)
		}
		if d, early := w.call("/open"); d != nil || early {
			t.Errorf("what is allowed: %v, early %v", d, early)
		}
		// The callee's rules are newer: it is asked, and stays the authority.
		w.atOrders.set(engineOf(t, 2, false, "/open"))
		if d, early := w.call(path); d == nil || early || d.Version != 1 {
			t.Errorf("%q: with other rules: %v, early %v", path, d, early)
		}
		newest := engineOf(t, 3, true, "/open", "/secret")
		w.atOrders.set(newest)
		w.atPayments.set(newest)
		if d, early := w.call(path); d != nil || early {
			t.Errorf("%q: after it was allowed: %v, early %v", path, d, early)
		}
		if s := w.orders.Stats(); s.Early != 1 || s.Decisions != [len(s.Decisions)][len(s.Decisions[0])]uint64{} {
			t.Errorf("%q: the caller counted %+v", path, s)
		}
		w.stop()
		if log := w.log.String(); strings.Count(log, "denied early: not called") != 1 || !strings.Contains(log, "rules_version=1") {
			t.Errorf("%q: the log:\n%s", path, log)
		}
	}
}

// TestEarlyModel: whoever has which rules when, an early denial is by the very rules that the caller has, and that the callee enforced
// a moment ago. All else is up to the callee.
func TestEarlyModel(t *testing.T) {
	paths := []string{"", "/x", "/y"}
	total := 0
	rapid.Check(t, func(rt *rapid.T) {
		var engines []*policy.Engine
		for i := range 6 {
			var allowed []string
			for _, p := range paths[1:] {
				if rapid.Bool().Draw(rt, "allows"+p) {
					allowed = append(allowed, p)
				}
			}
			engines = append(engines, engineOf(t, uint64(i+1), rapid.Bool().Draw(rt, "allows raw"), allowed...))
		}
		type step struct {
			callee, caller bool // get the next version
			call           string
			wait           time.Duration
		}
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				callee: rapid.IntRange(0, 5).Draw(t, "callee") == 0, caller: rapid.IntRange(0, 5).Draw(t, "caller") == 0,
				call: rapid.SampledFrom(paths).Draw(t, "call"),
				wait: time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 6, 20}).Draw(t, "wait")) * time.Second,
			}
		}), 5, 40).Draw(rt, "steps")
		var err error
		synctest.Test(t, func(t *testing.T) {
			w := newEarlyWorld(t, engines[0])
			defer w.stop()
			callee, caller := 0, 0
			replaced := make(map[int]time.Time) // when the callee got newer rules
			for i, s := range steps {
				if s.callee && callee+1 < len(engines) {
					replaced[callee] = time.Now()
					callee++
					w.atPayments.set(engines[callee])
				}
				if s.caller && caller+1 < len(engines) {
					caller++
					w.atOrders.set(engines[caller])
				}
				<-time.After(s.wait)
				synctest.Wait()
				d, early := w.call(s.call)
				said := func(e *policy.Engine) bool { return allows(e, s.call) }
				switch {
				case early && (d == nil || said(engines[caller]) || caller > callee || caller < callee && time.Since(replaced[caller]) > 10*time.Second):
					err = fmt.Errorf("step %d: %+v was denied early by v%d; the callee has v%d, since %v: %w", i, s, engines[caller].Version(), engines[callee].Version(), replaced[caller], d)
				case !early && (d == nil) != said(engines[callee]):
					err = fmt.Errorf("step %d: %+v: the callee has v%d, and the answer is %w", i, s, engines[callee].Version(), d)
				case early && callee == caller && said(engines[callee]):
					err = fmt.Errorf("step %d: %+v was denied early, which both allow", i, s)
				}
				if err != nil {
					return
				}
				if early {
					total++
				}
			}
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
	if total == 0 {
		t.Error("nothing was denied early: the model proves nothing")
	}
}

// allows asks the rules as the callee does.
func allows(e *policy.Engine, path string) bool {
	r := &policy.Request{
		Source:      spiffeid.RequireFromPath(spiffeid.RequireTrustDomainFromString(meshtest.TrustDomain), "/orders"),
		Destination: "payments", Port: "raw",
	}
	if path != "" {
		r.Port, r.Layer, r.Method, r.Path, r.Host = "web", policy.LayerHTTP, http.MethodPost, path, "_web.payments"
	}
	return e.Authorize(context.Background(), r).Verdict == policy.Allow
}
