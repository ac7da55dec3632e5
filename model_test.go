package mesh_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// What follows is a model of the whole: two callers, one service with a raw, an HTTP/1.1, an HTTP/2 and a gRPC port and one for requests
// that are upgraded, and at random what may happen to them. The model knows no mesh: it has the rules, the certificates, what of them
// is revoked and the trust as plain values.

// modelRule is a rule of the smallest language that has every layer: "" is any.
type modelRule struct {
	Deny             bool
	From, Port, Path string
}

func (r modelRule) json() string {
	var parts []string
	if r.From != "" {
		parts = append(parts, fmt.Sprintf(`"from":[{"services":[%q]}]`, r.From))
	}
	var to []string
	if r.Port != "" {
		to = append(to, fmt.Sprintf(`"ports":[%q]`, r.Port))
	}
	if r.Path != "" {
		to = append(to, fmt.Sprintf(`"paths":[%q]`, r.Path))
	}
	if to != nil {
		parts = append(parts, `"to":[{`+strings.Join(to, ",")+`}]`)
	}
	return "{" + strings.Join(parts, ",") + "}"
}

// use is something that a caller has open: a raw connection, an HTTP connection (path "") or a request: of HTTP, which may have been
// upgraded, or a gRPC stream.
type use struct {
	caller, port, path string
	request            bool
	cert               cert
}

// cert is all that counts of a certificate.
type cert struct {
	ca     int
	expiry time.Time
}

// modelState is what decides.
type modelState struct {
	rules   []modelRule
	trust   int // bit i: certificates of CA i are believed
	revoked []revokedCert
}

// revokedCert tells a certificate apart: of a caller's, no two expire at the same time.
type revokedCert struct {
	caller string
	expiry time.Time
}

// forbids says why a use may not be, "" when it may.
func (s modelState) forbids(u use, now time.Time) string {
	if s.trust&(1<<u.cert.ca) == 0 {
		return fmt.Sprintf("CA %d is not trusted", u.cert.ca)
	}
	if now.After(u.cert.expiry) {
		return fmt.Sprintf("its certificate expired at %v", u.cert.expiry)
	}
	if slices.Contains(s.revoked, revokedCert{u.caller, u.cert.expiry.UTC()}) {
		return "its certificate is revoked"
	}
	opaque := u.port == "raw" || u.port == "grpc" // no paths are known there
	allowed := false
	for _, r := range s.rules {
		if r.From != "" && r.From != u.caller || r.Port != "" && r.Port != u.port {
			continue
		}
		// A rule with a path says yes to an HTTP connection, which may come to have such a request, and no to none; of a
		// raw connection or a gRPC call it knows nothing, which is no to an allow and yes to a deny.
		matches := r.Path == "" || u.request && r.Path == u.path || opaque && r.Deny || !opaque && !u.request && !r.Deny
		if matches && r.Deny {
			return fmt.Sprintf("%+v denies", r)
		}
		allowed = allowed || matches
	}
	if !allowed {
		return "nothing allows it"
	}
	return ""
}

// A step is what happens at about the same time.
type step struct {
	Renew  []renewal    // first
	Rules  *[]modelRule // then, all at once: these,
	Trust  *int
	Revoke string // whose certificate
	Open   []use  // these, which stay open if they can,
	Ask    []use  // and these requests
	Close  int    // how many of the open are given up
	Wait   time.Duration
}

type renewal struct {
	Caller string
	CA     int
	Life   time.Duration
}

var (
	modelPorts   = []string{"raw", "h1", "h2", "up", "grpc"}
	modelCallers = []string{"a", "b"}
	modelPaths   = []string{"/x", "/y"}
)

func drawUse(t *rapid.T) use {
	u := use{caller: rapid.SampledFrom(modelCallers).Draw(t, "caller"), port: rapid.SampledFrom(modelPorts).Draw(t, "port")}
	u.request = u.port != "raw"
	if u.request && u.port != "grpc" {
		u.path = rapid.SampledFrom(modelPaths).Draw(t, "path")
	}
	return u
}

func drawRule(t *rapid.T) modelRule {
	return modelRule{
		Deny: rapid.IntRange(0, 4).Draw(t, "deny") == 0,
		From: rapid.SampledFrom([]string{"", "a", "a", "b"}).Draw(t, "from"),
		Port: rapid.SampledFrom(append([]string{"", "", "", ""}, modelPorts...)).Draw(t, "port"),
		Path: rapid.SampledFrom([]string{"", "", "/x", "/y"}).Draw(t, "path"),
	}
}

func drawStep(t *rapid.T) step {
	var s step
	if rapid.IntRange(0, 3).Draw(t, "renews") == 0 {
		s.Renew = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) renewal {
			return renewal{
				Caller: rapid.SampledFrom(modelCallers).Draw(t, "caller"), CA: rapid.IntRange(0, 1).Draw(t, "CA"),
				Life: time.Duration(rapid.IntRange(1, 20).Draw(t, "life")) * time.Second,
			}
		}), 1, 2).Draw(t, "renew")
	}
	if rapid.IntRange(0, 1).Draw(t, "changes") == 0 {
		x, y := modelRule{Path: "/x"}, modelRule{Path: "/y"}
		rules := rapid.SampledFrom([][]modelRule{{x, y}, {x}, {y}, {{}}, {}}).Draw(t, "rules") // changes between these are the telling ones
		rules = append(slices.Clone(rules), rapid.SliceOfN(rapid.Custom(drawRule), 0, 3).Draw(t, "and")...)
		s.Rules = &rules
	}
	if rapid.IntRange(0, 4).Draw(t, "trusts") == 0 {
		trust := rapid.SampledFrom([]int{3, 3, 1, 2, 0}).Draw(t, "trust")
		s.Trust = &trust
	}
	if rapid.IntRange(0, 11).Draw(t, "revokes") == 0 {
		s.Revoke = rapid.SampledFrom(modelCallers).Draw(t, "revoke")
	}
	s.Open = rapid.SliceOfN(rapid.Custom(drawUse), 0, 3).Draw(t, "open")
	s.Ask = rapid.SliceOfN(rapid.Custom(drawUse), 0, 2).Draw(t, "ask")
	s.Close = rapid.IntRange(0, 1).Draw(t, "close")
	s.Wait = time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 3, 10}).Draw(t, "wait")) * time.Second
	return s
}

// inForce is how long rules may be in force before what they forbid has to be gone.
const inForce = 100 * time.Millisecond

// TestModel: whatever happens, in whatever order, nothing is open that the rules in force for more than 100 ms forbid; and what
// they allow works, and goes on. MESH_NIGHTLY=1 tries for longer.
func TestModel(t *testing.T) {
	checks := "50"
	if os.Getenv("MESH_NIGHTLY") != "" {
		checks = "1000"
	}
	given := os.Getenv("RAPID_CHECKS") != ""
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		if err := flag.Set("rapid.checks", checks); err != nil {
			t.Fatal(err)
		}
	}
	total := 0
	var reused, early uint64
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 1, 20).Draw(rt, "steps")
		var err error
		synctest.Test(t, func(t *testing.T) {
			w := newModelWorld(t)
			for i, s := range steps {
				if err = w.step(s); err != nil {
					err = fmt.Errorf("step %d: %w", i, err)
					break
				}
			}
			w.close()
			total, reused, early = total+w.checked, reused+w.reused, early+w.early
		})
		if err != nil {
			rt.Fatal(err)
		}
	})
	t.Logf("%d times something open was checked; %d connections were used again, %d calls denied early", total, reused, early)
}

// TestModelFindsWhatItIsFor is the model's own control: without the rules that the mesh has, it complains.
func TestModelFindsWhatItIsFor(t *testing.T) {
	all, none := []modelRule{{}}, []modelRule{}
	for name, broken := range map[string]func(w *modelWorld){
		"the rules changed and nobody saw it": func(w *modelWorld) { w.state.rules = none },
		"the trust changed and nobody saw it": func(w *modelWorld) { w.state.trust = 2 },
		"a certificate was revoked and nobody saw it": func(w *modelWorld) {
			w.state.revoked = []revokedCert{{"a", w.callers["a"].cert.expiry.UTC()}}
		},
	} {
		for _, u := range []use{{caller: "a", port: "raw"}, {caller: "a", port: "h1", path: "/x", request: true}, {caller: "a", port: "h2", path: "/x", request: true}, {caller: "a", port: "up", path: "/x", request: true}, {caller: "a", port: "grpc", request: true}} {
			t.Run(name+"/"+u.port, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newModelWorld(t)
					defer w.close()
					for _, s := range []step{{Rules: &all}, {Open: []use{u}}} {
						if err := w.step(s); err != nil {
							t.Fatal(err)
						}
					}
					if !slices.ContainsFunc(w.alive(), func(l *live) bool { return l.use.port == u.port }) {
						t.Fatal("it is not open")
					}
					broken(w)
					if err := w.step(step{}); err == nil {
						t.Error("the model has nothing to say")
					}
				})
			})
		}
	}
}
