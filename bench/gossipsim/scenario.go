package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A result is what one pool of N members did. Times are the protocol's, in seconds of the virtual clock; -1 is "not within the time
// given", and what was not run is absent.
type result struct {
	N       int                `json:"n"`
	Model   bool               `json:"model"` // the members were those of package light
	Figures map[string]float64 `json:"figures"`
	Real    float64            `json:"real_seconds"` // that the simulation took
	CPU     float64            `json:"cpu_seconds"`
}

// A scenario measures one thing in a pool that is whole, and leaves it whole.
type scenario struct {
	name string
	run  func(ctx context.Context, w world, r *result, o order) error
}

func scenarios() []scenario {
	return []scenario{
		{"idle", idle},
		{"update", update},
		{"rate", rate},
		{"crash", crash},
		{"churn", churn},
		{"rolling", rolling},
		{"loss", loss},
		{"partition", partition},
	}
}

// joining is the scenario that comes before all others. Real members can't do without.
const joining = "join"

func scenarioNames() []string {
	names := []string{joining}
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return append(names, observing)
}

// measure runs the scenarios in a pool whose members have all started. It calls atRest once all know all.
func (o order) measure(ctx context.Context, w world, r *result, atRest func()) error {
	if !r.Model || o.wants(joining) {
		r.shares("join", whole(w, 5*time.Minute, 100*time.Millisecond))
		r.Figures["join_seed_mib"] = float64(w.sent().mostStreamed) / (1 << 20)
		calm(w)
		if err := o.save(r); err != nil {
			return err
		}
	}
	atRest()
	for _, s := range scenarios() {
		if !o.wants(s.name) {
			continue
		}
		o.say("%s: %s", r.name(), s.name)
		if err := s.run(ctx, w, r, o); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := settle(w); err != nil {
			return fmt.Errorf("after %s: %w", s.name, err)
		}
		if err := o.save(r); err != nil {
			return err
		}
	}
	return nil
}

func (o order) wants(scenario string) bool {
	return len(o.scenarios) == 0 || slices.Contains(o.scenarios, scenario)
}

func (r *result) name() string {
	if r.Model {
		return fmt.Sprintf("%d modelled members", r.N)
	}
	return fmt.Sprintf("%d members", r.N)
}

// say writes a line of progress, with what CPU the process has used so far: the clock in a bubble is not the real one.
func (o order) say(format string, args ...any) {
	fmt.Fprintf(o.progress, "%7.0f s of CPU  %s\n", cpuTime().Seconds(), fmt.Sprintf(format, args...))
}

// settle waits until all know all, which a scenario must leave, and nobody has much to say any more.
func settle(w world) error {
	times := whole(w, 10*time.Minute, time.Second)
	calm(w)
	if missing := count(times, func(d time.Duration) bool { return d < 0 }); missing > 0 {
		return fmt.Errorf("%d of %d members do not know all the others after 10 min", missing, len(times))
	}
	return nil
}

// shares notes by when 50, 99 and 100 % were there.
func (r *result) shares(name string, times []time.Duration) {
	slices.SortFunc(times, func(a, b time.Duration) int { // those that never came last
		switch {
		case a < 0 && b < 0:
			return 0
		case a < 0:
			return 1
		case b < 0:
			return -1
		}
		return int(a - b)
	})
	for label, share := range map[string]float64{"50": 0.5, "99": 0.99, "100": 1} {
		i := min(int(share*float64(len(times))), len(times)-1)
		r.Figures[name+"_"+label] = times[i].Seconds()
	}
}

func count[T any](all []T, yes func(T) bool) (n int) {
	for _, v := range all {
		if yes(v) {
			n++
		}
	}
	return n
}

// idle measures what a pool costs in which nothing happens.
func idle(_ context.Context, w world, r *result, _ order) error {
	r.traffic(w, "idle", func() { w.pause(time.Minute) })
	return nil
}

// traffic notes what members send per second while f runs, and what CPU the whole simulation took.
func (r *result) traffic(w world, name string, f func()) {
	before, cpu, start := w.sent(), cpuTime(), w.now()
	f()
	after, each := w.sent(), float64(w.size())*(w.now()-start).Seconds()
	r.Figures[name+"_packets"] = float64(after.packets-before.packets) / each
	r.Figures[name+"_bytes"] = float64(after.bytes-before.bytes) / each
	r.Figures[name+"_streams_min"] = float64(after.streams-before.streams) / each * 60
	if !r.Model {
		r.Figures[name+"_overflow"] = float64(after.overflow - before.overflow)
		r.Figures[name+"_cpu_us"] = float64((cpuTime() - cpu).Microseconds()) / each
	}
}

// update announces a change at one member and watches it reach the others, five times.
func update(ctx context.Context, w world, r *result, _ order) error {
	var all []time.Duration
	for round := range 5 {
		j := round * w.size() / 5
		version, err := w.announce(ctx, j)
		if err != nil {
			return err
		}
		all = append(all, spread(w, w.size(), time.Minute, 10*time.Millisecond, func(i int) bool { return w.sees(i, j, version) })...)
	}
	r.shares("update", all)
	return nil
}

// updatesPerSecond is what a rolling deploy of 10,000 processes wants.
const updatesPerSecond = 50

// rate announces 50 changes a second for 20 s, at members in turn, and notes which part of them had reached a member within 5 s.
func rate(ctx context.Context, w world, r *result, _ order) error {
	const total, patience = 20 * updatesPerSecond, 5 * updatesPerSecond
	type change struct {
		at      int
		version uint16
	}
	watch := min(w.size(), 200) // a sample, the same for all
	var changes []change
	var seen []int
	for k := range total + patience {
		if k < total {
			at := k * 7919 % w.size()
			version, err := w.announce(ctx, at)
			if err != nil {
				return err
			}
			changes = append(changes, change{at, version})
		}
		if k >= patience {
			c := changes[0]
			changes, seen = changes[1:], append(seen, 0)
			for i := range watch {
				if w.sees(i, c.at, c.version) {
					seen[len(seen)-1]++
				}
			}
		}
		w.pause(time.Second / updatesPerSecond)
	}
	slices.Sort(seen)
	r.Figures["rate_seen_median"] = float64(seen[total/2]) / float64(watch)
	r.Figures["rate_seen_p1"] = float64(seen[total/100]) / float64(watch) // 99 % of the updates were seen by at least this part
	return nil
}

// crash kills one member in a hundred at once, at least one, and watches the others hold them for gone; again and again, with pools that are whole again.
func crash(ctx context.Context, w world, r *result, o order) error {
	k := max(1, w.size()/100)
	live := w.size() - k
	var all []time.Duration
	for range max(1, o.crashes/k) {
		lost := make([]func(int) bool, k)
		for i := range lost {
			lost[i] = w.kill(live + i)
		}
		all = append(all, spread(w, live*k, 3*time.Minute, 50*time.Millisecond, func(i int) bool { return lost[i%k](i / k) })...)
		for i := range k {
			if err := w.replace(ctx, live+i); err != nil {
				return err
			}
		}
		if err := forgotten(w); err != nil {
			return err
		}
	}
	r.shares("crash", all)
	return nil
}

// forgotten waits until no member keeps an endpoint of a process that is gone.
func forgotten(w world) error {
	left := count(spread(w, w.size(), 5*time.Minute, time.Second, func(i int) bool {
		_, suspect := w.knows(i)
		return suspect == 0
	}), func(d time.Duration) bool { return d < 0 })
	if left > 0 {
		return fmt.Errorf("%d members keep endpoints of the dead for more than 5 min", left)
	}
	return nil
}

// churn restarts members at 10 % an hour, one after the other.
func churn(ctx context.Context, w world, r *result, o order) error {
	restarts := max(1, int(0.1*o.minutes/60*float64(w.size())))
	var err error
	r.traffic(w, "churn", func() {
		start := w.now()
		for i := range restarts {
			if err == nil {
				err = w.restart(ctx, seedCount+i%(w.size()-seedCount))
			}
			if rest := start + o.duration()*time.Duration(i+1)/time.Duration(restarts) - w.now(); rest > 0 {
				w.pause(rest)
			}
		}
	})
	return err
}

// rolling restarts 200 members, or a third of a small pool, one after the other, and notes how long after the last one all know it.
func rolling(ctx context.Context, w world, r *result, _ order) error {
	k := min(200, w.size()/3)
	var err error
	start := w.now()
	r.traffic(w, "rolling", func() {
		for i := 0; i < k && err == nil; i++ {
			err = w.restart(ctx, seedCount+i)
		}
	})
	if err != nil {
		return err
	}
	r.Figures["rolling_took"] = (w.now() - start).Seconds()
	r.shares("rolling_after", whole(w, 5*time.Minute, 50*time.Millisecond))
	return nil
}

// loss runs the pool with a part of the datagrams lost, and counts the members that others held for gone though they lived.
func loss(_ context.Context, w world, r *result, o order) error {
	for _, percent := range o.losses {
		w.setLoss(float64(percent) / 100)
		victims, pairs := make(map[int]bool), 0
		for end := w.now() + o.duration(); w.now() < end; w.pause(time.Second) {
			pairs += w.slander(victims)
		}
		r.Figures[fmt.Sprintf("false_deaths_%d", percent)] = float64(len(victims))
		r.Figures[fmt.Sprintf("false_seconds_%d", percent)] = float64(pairs) / float64(w.size()) // a member's, on average
		w.setLoss(0)
		if err := settle(w); err != nil {
			return err
		}
	}
	return nil
}

// partition cuts a third of the members off for 120 s, all seeds on the other side, and notes how long after the heal all know all.
func partition(_ context.Context, w world, r *result, _ order) error {
	w.split(w.size() - w.size()/3)
	w.pause(2 * time.Minute)
	w.split(0)
	r.shares("heal", whole(w, 5*time.Minute, 100*time.Millisecond))
	return nil
}
