package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/rulesfile"
	"golang.org/x/sync/errgroup"
)

// rule is what an operator gives to "mesh policy apply".
const rule = `
apiVersion: mesh/v1
kind: Authorization
metadata: {name: orders-may-pay}
spec:
  service: payments
  action: allow
  rules:
  - from:
    - services: [orders]
    to:
    - {methods: [POST], paths: [/charge]}
    - {grpc: [pay.v1.Payments/Charge]}
    - {ports: [ledger]}
`

const ruleName = "orders-may-pay"

// A scenario is the story. Its steps build on each other.
type scenario struct {
	*group
	out      *printer
	operator *admin.Client

	control, orders *process
	payments        [2]*process
}

func (s *scenario) run(ctx context.Context) error {
	s.out.title("A mesh on this machine's loopback interface: one control plane, two payments, one orders.")
	for _, step := range []func(context.Context) error{
		s.join, s.denied, s.allow, s.identities, s.spread, s.crash, s.cut, s.withoutControl, s.fromState,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// join starts every process.
func (s *scenario) join(ctx context.Context) (err error) {
	step := s.out.step("four processes join")
	begun := time.Now()
	if s.control, err = s.start(ctx, setup{Role: "control", Name: "control"}); err != nil {
		return err
	}
	step.say("control", "pid %-8d ready after %s: certificate authority, rules, gossip seed", s.control.pid, ms(time.Since(begun)))
	if s.operator, err = admin.NewClient(filepath.Join(s.root, "control")); err != nil {
		return err
	}
	members := []setup{
		{Role: "payments", Name: "payments-1"}, {Role: "payments", Name: "payments-2"}, {Role: "orders", Name: "orders"},
	}
	started := []**process{&s.payments[0], &s.payments[1], &s.orders}
	took := make([]time.Duration, len(members))
	all, starting := errgroup.WithContext(ctx)
	for i, m := range members {
		b, err := s.operator.Token(ctx, m.Role, time.Minute)
		if err != nil {
			return err
		}
		m.Bootstrap = b.Encode()
		all.Go(func() (err error) {
			begun := time.Now()
			*started[i], err = s.start(starting, m)
			took[i] = time.Since(begun)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	for i, p := range started {
		var who joined
		if err := json.Unmarshal((*p).ready, &who); err != nil {
			return err
		}
		if want := "spiffe://" + trustDomain + "/" + (*p).Role; who.ID != want {
			return fmt.Errorf("%s is %s, not %s", (*p).Name, who.ID, want)
		}
		step.say((*p).Name, "pid %-8d joined after %s: %s, %s", (*p).pid, ms(took[i]), who.ID, who.Addr)
	}
	if _, err := call[time.Duration](ctx, s.orders, "find", 2); err != nil {
		return err
	}
	step.done()
	return nil
}

// denied shows that nothing is allowed that no rule allows.
func (s *scenario) denied(ctx context.Context) error {
	step := s.out.step("orders calls payments: denied, since no rule allows it")
	if err := s.expectDenied(ctx, step); err != nil {
		return err
	}
	step.done()
	return nil
}

func (s *scenario) expectDenied(ctx context.Context, step *step) error {
	for _, protocol := range protocols {
		out, err := call[outcome](ctx, s.orders, "call", protocol)
		switch {
		case err != nil:
			return err
		case out.Denied == nil:
			return fmt.Errorf("%s: %s answered %s, though no rule allows it", protocol, out.Instance, out.Caller)
		case out.Denied.Reason == "":
			return fmt.Errorf("%s: denied without a reason", protocol)
		}
		step.say(protocol, "%s", reason(out.Denied))
	}
	return nil
}

// allow applies the rule and waits until it works.
func (s *scenario) allow(ctx context.Context) error {
	step := s.out.step("a rule lets orders POST /charge, call Charge and use the ledger")
	var version uint64
	var stored time.Time
	begun, allowed, err := s.change(ctx, true, func() (err error) {
		version, err = s.apply(ctx)
		stored = time.Now()
		return err
	})
	if err != nil {
		return err
	}
	step.say("control", "on disk as version %d after %s", version, ms(stored.Sub(begun)))
	step.say("orders", "allowed after %s", times(allowed))
	if err := s.everywhere(ctx, version); err != nil {
		return err
	}
	step.say("members", "all follow version %d after %s", version, ms(time.Since(begun)))
	step.done()
	return nil
}

// change changes the rules while orders keeps calling. It returns when the change began, and how long after that the
// first call of each protocol was allowed (or denied).
func (s *scenario) change(ctx context.Context, allowed bool, rules func() error) (begun time.Time, after []time.Duration, err error) {
	after = make([]time.Duration, len(protocols))
	watching, ctx := errgroup.WithContext(ctx)
	at := make([]time.Time, len(protocols))
	for i, protocol := range protocols {
		watching.Go(func() (err error) {
			at[i], err = call[time.Time](ctx, s.orders, "until", untilArgs{protocol, allowed})
			return err
		})
	}
	begun = time.Now()
	err = errors.Join(rules(), watching.Wait())
	for i := range at {
		after[i] = at[i].Sub(begun)
	}
	return begun, after, err
}

// everywhere waits until both payments and orders have said that they have a version of the rules. A change reaches
// the members at slightly different times.
func (s *scenario) everywhere(ctx context.Context, version uint64) error {
	for begun := time.Now(); time.Since(begun) < 8*time.Second; {
		members, err := s.operator.Members(ctx)
		if err != nil {
			return err
		}
		follow := map[string]int{} // a killed instance may still be listed, with an older version
		for _, m := range members {
			if m.Rules >= version {
				follow[m.Service]++
			}
		}
		if follow["payments"] >= 2 && follow["orders"] >= 1 {
			return nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("after 8 s some members do not follow version %d of the rules", version)
}

// times shows one duration for each protocol.
func times(d []time.Duration) string {
	var parts []string
	for i, protocol := range protocols {
		parts = append(parts, ms(d[i])+" ("+protocol+")")
	}
	return strings.Join(parts, ", ")
}

// apply is "mesh policy apply".
func (s *scenario) apply(ctx context.Context) (version uint64, err error) {
	docs, err := rulesfile.Parse("quickstart.yaml", []byte(rule))
	if err != nil {
		return 0, err
	}
	applied, err := s.operator.Apply(ctx, docs, admin.ApplyOptions{})
	return applied.Version, err
}

// identities shows who talks to whom.
func (s *scenario) identities(ctx context.Context) error {
	step := s.out.step("three protocols over mutual TLS, each end knows the other")
	if err := s.expectIdentities(ctx, step); err != nil {
		return err
	}
	step.done()
	return nil
}

func (s *scenario) expectIdentities(ctx context.Context, step *step) error {
	const caller, server = "spiffe://" + trustDomain + "/orders", "spiffe://" + trustDomain + "/payments"
	for _, protocol := range protocols {
		out, err := call[outcome](ctx, s.orders, "call", protocol)
		if err != nil {
			return err
		}
		if out.Denied != nil {
			return fmt.Errorf("%s: %w", protocol, out.Denied)
		}
		if out.Server != server || out.Caller != caller {
			return fmt.Errorf("%s: %q called %q, not %s and %s", protocol, out.Caller, out.Server, caller, server)
		}
		line := out.Caller + " → " + out.Server
		if out.Session != "" {
			line += " (" + out.Session + ")"
		}
		step.say(protocol, "%s", line)
	}
	return nil
}

// spread shows balancing, in rounds of calls: an instance that was slow a moment ago (while it started, or because the
// machine is busy) gets few calls until that is forgotten.
func (s *scenario) spread(ctx context.Context) error {
	const calls = 60
	step := s.out.step("calls are spread over both instances")
	for _, protocol := range protocols {
		var by map[string]int
		round, begun := 0, time.Now()
		for by[s.payments[0].Name] < calls/10 || by[s.payments[1].Name] < calls/10 {
			if time.Since(begun) > 8*time.Second {
				return fmt.Errorf("%s: the last %d of %d calls went to %s", protocol, calls, round*calls, s.split(by))
			}
			var err error
			if by, err = call[map[string]int](ctx, s.orders, "spread", spreadArgs{protocol, calls}); err != nil {
				return err
			}
			round++
		}
		late := ""
		if round > 1 {
			late = fmt.Sprintf(" (after %s: being refused or slow counts against an instance for a moment)", ms(time.Since(begun)))
		}
		step.say(protocol, "%d calls: %s%s", calls, s.split(by), late)
	}
	step.done()
	return nil
}

func (s *scenario) split(by map[string]int) string {
	return fmt.Sprintf("%s %d, %s %d", s.payments[0].Name, by[s.payments[0].Name], s.payments[1].Name, by[s.payments[1].Name])
}

// stay keeps the mesh up for exploring, until the run is interrupted or a process dies.
func (s *scenario) stay(limited, ctx context.Context) (err error) {
	if s.control, err = s.start(limited, s.control.setup); err != nil {
		return err
	}
	s.out.explore(s.control.pid, filepath.Join(s.root, "control"))
	<-ctx.Done()
	if died, ok := errors.AsType[*exitError](context.Cause(ctx)); ok {
		return died
	}
	return nil
}
