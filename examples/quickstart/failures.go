package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/intramesh/mesh"
)

// The second half of the story: what happens when things break or are taken away.

// crash kills an instance while requests run.
func (s *scenario) crash(ctx context.Context) error {
	step := s.out.step("payments-1 is killed (SIGKILL) under traffic: no request fails")
	if err := s.startLoad(ctx); err != nil {
		return err
	}
	killed := time.Now()
	if err := s.payments[0].kill(); err != nil {
		return err
	}
	if _, err := call[int](ctx, s.orders, "pass", passArgs{time.Second, 100}); err != nil {
		return err
	}
	if err := s.stopLoad(ctx, step, true); err != nil {
		return err
	}
	begun := time.Now()
	p, err := s.start(ctx, s.payments[0].setup)
	if err != nil {
		return err
	}
	s.payments[0] = p
	step.say("payments-1", "pid %-8d back from its own state %s after it is started, %s after the kill",
		p.pid, ms(time.Since(begun)), ms(time.Since(killed)))
	step.done()
	return nil
}

// startLoad returns when the traffic is in full flow.
func (s *scenario) startLoad(ctx context.Context) error {
	if _, err := call[any](ctx, s.orders, "load", nil); err != nil {
		return err
	}
	_, err := call[int](ctx, s.orders, "pass", passArgs{300 * time.Millisecond, 100})
	return err
}

// stopLoad demands that no request failed, and that both instances took part.
func (s *scenario) stopLoad(ctx context.Context, step *step, both bool) error {
	r, err := call[loadReport](ctx, s.orders, "unload", nil)
	if err != nil {
		return err
	}
	if r.Failed > 0 {
		return fmt.Errorf("%d of %d requests failed, the first with: %s", r.Failed, r.Requests, r.Error)
	}
	if both && (r.By[s.payments[0].Name] == 0 || r.By[s.payments[1].Name] == 0) {
		return fmt.Errorf("only one instance served: %s", s.split(r.By))
	}
	step.say("HTTP", "%d requests, 0 failed: %s; the slowest took %s", r.Requests, s.split(r.By), ms(r.Slowest))
	return nil
}

// cut removes the rule beneath an open connection.
func (s *scenario) cut(ctx context.Context) error {
	step := s.out.step("the rule is deleted: an open connection is cut")
	instance, err := call[string](ctx, s.orders, "hold", nil)
	if err != nil {
		return err
	}
	step.say("TCP", "orders holds an idle connection to the ledger of %s", instance)
	var version uint64
	begun, denied, err := s.change(ctx, false, func() error {
		deleted, err := s.operator.Delete(ctx, []string{ruleName}, 0)
		version = deleted.Version
		return err
	})
	if err != nil {
		return err
	}
	r, err := call[cutReport](ctx, s.orders, "cut", nil)
	if err != nil {
		return err
	}
	if r.Denied == nil {
		return fmt.Errorf("the connection was closed, but without a reason: %s", r.Error)
	}
	step.say("TCP", "cut after %s: %s", ms(r.At.Sub(begun)), reason(r.Denied))
	step.say("new calls", "denied after %s", times(denied))
	if err := s.everywhere(ctx, version); err != nil {
		return err
	}
	_, allowed, err := s.change(ctx, true, func() (err error) {
		version, err = s.apply(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if err := s.everywhere(ctx, version); err != nil {
		return err
	}
	step.say("new calls", "the rule is back: allowed after %s", times(allowed))
	step.done()
	return nil
}

// withoutControl kills the control plane.
func (s *scenario) withoutControl(ctx context.Context) error {
	step := s.out.step("the control plane is killed (SIGKILL) under traffic: it goes on")
	if err := s.startLoad(ctx); err != nil {
		return err
	}
	if err := s.control.kill(); err != nil {
		return err
	}
	if _, err := call[int](ctx, s.orders, "pass", passArgs{2 * time.Second, 100}); err != nil {
		return err
	}
	if err := s.stopLoad(ctx, step, true); err != nil {
		return err
	}
	step.done()
	return nil
}

// fromState restarts orders while there is no control plane.
func (s *scenario) fromState(ctx context.Context) error {
	step := s.out.step("orders is killed, and restarts from its state without a control plane")
	if err := s.orders.kill(); err != nil {
		return err
	}
	begun := time.Now()
	p, err := s.start(ctx, s.orders.setup)
	if err != nil {
		return err
	}
	s.orders = p
	step.say("orders", "pid %-8d joined after %s: certificate, peers and rules are those on its disk", p.pid, ms(time.Since(begun)))
	if _, err := call[time.Duration](ctx, s.orders, "find", 2); err != nil {
		return err
	}
	if err := s.expectIdentities(ctx, step); err != nil {
		return err
	}
	step.done()
	return nil
}

// reason shows a denial as its error does, without what the line says already.
func reason(d *mesh.DeniedError) string {
	_, why, _ := strings.Cut(d.Error(), ": denied")
	return "denied" + why
}
