package main_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/enrol"
	"github.com/intramesh/mesh/identity"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TestTokenCommands: make, list, revoke.
func TestTokenCommands(t *testing.T) {
	t.Parallel()
	dir := newPlane(t)
	serve(t, dir)
	if out := must(t, dir, "", "token", "payments"); !strings.HasPrefix(out, "mesh1.") || strings.Count(out, "\n") != 1 {
		t.Errorf("token printed %q", out)
	}
	var made struct{ ID, Service, Bootstrap string }
	out := must(t, dir, "", "token", "create", "web-*", "list", "--uses", "any", "--ttl", "48h", "--from", "10.0.0.0/8,127.0.0.1", "-o", "json")
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.ID == "" || made.Service != "" || !strings.HasPrefix(made.Bootstrap, "mesh1.") {
		t.Errorf("%s: %v", out, err)
	}
	list := must(t, dir, "", "token", "list")
	for _, want := range []string{"payments", "0 of 1", "web-*,list", "0 of any", "10.0.0.0/8,127.0.0.1/32", "usable"} {
		if !strings.Contains(list, want) {
			t.Errorf("%q is not in\n%s", want, list)
		}
	}
	if out := must(t, dir, "", "token", "revoke", made.ID); !strings.Contains(out, made.ID+" is revoked") {
		t.Error(out)
	}
	var tokens []enrol.Token
	if err := json.Unmarshal([]byte(must(t, dir, "", "token", "list", "-o", "json")), &tokens); err != nil || len(tokens) != 2 || tokens[1].State(time.Now()) != "revoked" {
		t.Errorf("%+v, %v", tokens, err)
	}
	for want, args := range map[string][]string{
		"no service": {"token", "No Service"},
		"0 uses":     {"token", "a", "--uses", "0"},
		"a network":  {"token", "a", "--from", "10.0.0.0/99"},
		"a year":     {"token", "a", "--ttl", "100000h"},
		"not there":  {"token", "revoke", "nothing"},
	} {
		if code, out, errs := mesh(t, dir, "", args...); code != 4 || out != "" || errs == "" {
			t.Errorf("%s: exit code %d %s%s", want, code, out, errs)
		}
	}
}

// TestKillCountsUses kills the server again and again while many use one token: never do more get in than it allows, and
// every use that was heard of is counted.
func TestKillCountsUses(t *testing.T) {
	t.Parallel()
	dir := newPlane(t)
	p := serve(t, dir)
	const uses = 12
	made, err := p.client(t).CreateToken(t.Context(), enrol.Spec{Services: []string{"web"}, Uses: uses, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	b := made.Bootstrap
	var in, refused atomic.Int32
	var wg sync.WaitGroup
	for range 2 * uses {
		wg.Go(func() {
			for t.Context().Err() == nil {
				s, err := identity.NewStepCA(t.Context(), identity.StepCAConfig{
					URL: b.CA, RootFingerprint: b.RootFingerprint, Token: b.Token, ID: spiffeid.RequireFromString("spiffe://example.test/web"),
				})
				switch {
				case err == nil:
					in.Add(1)
					_ = s.Close()
				case strings.Contains(err.Error(), "as often as it can be"):
					refused.Add(1)
				default:
					continue // killed at the wrong moment for patience, too
				}
				return
			}
		})
	}
	for range 3 {
		after := time.NewTimer(20*time.Millisecond + rand.N(100*time.Millisecond))
		<-after.C
		p.kill(t)
		p = serve(t, dir)
	}
	wg.Wait()
	tokens, err := p.client(t).Tokens(t.Context())
	if err != nil || in.Load() != uses || refused.Load() != uses || tokens[0].Used != uses {
		t.Errorf("%d are in, %d refused: %+v, %v", in.Load(), refused.Load(), tokens, err)
	}
}
