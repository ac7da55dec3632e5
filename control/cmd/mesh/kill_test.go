package main_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func document(name string, n int) policy.Document {
	return policy.Document{
		APIVersion: policy.APIVersion, Kind: policy.Kind,
		Metadata: policy.Metadata{Name: name, Labels: map[string]string{"n": fmt.Sprint(n)}},
		Spec: policy.Spec{Service: "payments", Action: policy.ActionAllow, Rules: []policy.Rule{
			{From: []policy.Source{{Services: []string{"orders"}}}},
		}},
	}
}

// TestKillLosesNothing kills the server, again and again, while rules are applied as fast as
// they go, two documents at a time. What was acknowledged must be there when it is back,
// both halves of a change or none, and the version must never go back.
func TestKillLosesNothing(t *testing.T) {
	dir := newPlane(t)
	acked := struct {
		version uint64
		n       int
	}{1, 0}
	total := 0
	for round := range 6 {
		p := serve(t, dir)
		c := p.client(t)
		rules, err := c.Rules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if rules.Version < acked.version {
			t.Fatalf("round %d: version %d is there, %d was acknowledged", round, rules.Version, acked.version)
		}
		got := map[string]string{}
		for _, d := range rules.Documents {
			got[d.Metadata.Name] = d.Metadata.Labels["n"]
		}
		if got["left"] != got["right"] {
			t.Fatalf("round %d: half a change is there: %v", round, got)
		}
		// One change may have been stored without anybody hearing of it.
		if n := fmt.Sprint(acked.n); acked.n > 0 && got["left"] != n && got["left"] != fmt.Sprint(acked.n+1) {
			t.Fatalf("round %d: change %s is there, %s was acknowledged", round, got["left"], n)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for n := acked.n + 1; ; n++ {
				r, err := c.Apply(t.Context(), []policy.Document{document("left", n), document("right", n)}, admin.ApplyOptions{})
				if err != nil {
					return // killed
				}
				acked.version, acked.n = r.Version, n
				total++
			}
		})
		after := time.NewTimer(50*time.Millisecond + rand.N(150*time.Millisecond))
		<-after.C
		p.kill(t)
		wg.Wait()
	}
	if total == 0 {
		t.Error("nothing was acknowledged")
	}
	t.Logf("%d changes, 6 kills", total)
}

// TestKillBurnsNoTokenTwice: a token that was used before the kill stays used, one that was
// not still works, at the same address.
func TestKillBurnsNoTokenTwice(t *testing.T) {
	dir := newPlane(t)
	p := serve(t, dir)
	c := p.client(t)
	enrol := func(ctx context.Context, service string, b *identity.StepCAConfig) error {
		ca, err := identity.NewStepCA(ctx, *b)
		if err != nil {
			return err
		}
		svid, err := ca.GetX509SVID()
		if err != nil {
			return err
		}
		if got := identity.ServiceName(svid.ID); got != service {
			return fmt.Errorf("enrolled as %q", got)
		}
		return ca.Close()
	}
	token := func(service string) *identity.StepCAConfig {
		b, err := c.Token(t.Context(), service, 0)
		if err != nil {
			t.Fatal(err)
		}
		return &identity.StepCAConfig{URL: b.CA, RootFingerprint: b.RootFingerprint, Token: b.Token, ID: spiffeid.RequireFromString("spiffe://example.test/" + service)}
	}
	used, fresh := token("orders"), token("billing/invoices")
	if err := enrol(t.Context(), "orders", used); err != nil {
		t.Fatal(err)
	}
	p.kill(t)
	again := serve(t, dir)
	if again.line != p.line {
		t.Errorf("came back as %s, was %s", again.line, p.line)
	}
	if err := enrol(t.Context(), "orders", used); err == nil || !strings.Contains(err.Error(), "was used already") {
		t.Errorf("used token: %v", err)
	}
	if err := enrol(t.Context(), "billing/invoices", fresh); err != nil {
		t.Errorf("unused token: %v", err)
	}
}

// TestTerm: SIGTERM ends it in order, with 0.
func TestTerm(t *testing.T) {
	dir := newPlane(t)
	p := serve(t, dir)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(); err != nil {
		t.Error(err)
	}
	c := p.client(t)
	_, err := c.Members(t.Context())
	if _, ok := errors.AsType[*admin.UnreachableError](err); !ok {
		t.Errorf("after the end: %v", err)
	}
}
