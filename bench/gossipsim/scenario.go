package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// A result is what one pool of N members did. Times are the protocol's, in seconds of the virtual clock; -1 is "not within the time
// given", and what was not run is absent.
type result struct {
	N       int                `json:"n"`
	Figures map[string]float64 `json:"figures"`
	Real    float64            `json:"real_seconds"` // that the simulation took
	CPU     float64            `json:"cpu_seconds"`
}

// A scenario measures one thing in a pool that is whole, and leaves it whole.
type scenario struct {
	name string
	run  func(ctx context.Context, p *pool, r *result, duration time.Duration) error
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

func scenarioNames() (names []string) {
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

// simulate starts a pool of n and runs the scenarios, within a bubble of package synctest.
func (o order) simulate(ctx context.Context, n int) (*result, error) {
	r := &result{N: n, Figures: make(map[string]float64)}
	o.say("%d members: join", n)
	empty := heap()
	p, err := burst(ctx, newNetwork(o.latency), n)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.close() }()
	p.losses = o.losses
	services := p.services()
	r.shares("join", spread(n, 5*time.Minute, 100*time.Millisecond, func(i int) bool {
		usable, _ := p.members[i].knows(services)
		return usable == n
	}))
	pause(time.Minute) // until what they broadcast has settled
	r.Figures["heap_kib"] = float64(heap()-empty) / float64(n) / 1024
	for _, s := range scenarios() {
		if len(o.scenarios) > 0 && !slices.Contains(o.scenarios, s.name) {
			continue
		}
		o.say("%d members: %s", n, s.name)
		if err := s.run(ctx, p, r, time.Duration(o.minutes*float64(time.Minute))); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		if err := p.settle(); err != nil {
			return nil, fmt.Errorf("after %s: %w", s.name, err)
		}
	}
	return r, nil
}

// say writes a line of progress, with what CPU the process has used so far: the clock in a bubble is not the real one.
func (o order) say(format string, args ...any) {
	fmt.Fprintf(o.progress, "%7.0f s of CPU  %s\n", cpuTime().Seconds(), fmt.Sprintf(format, args...))
}

// settle waits until all know all, which a scenario must leave.
func (p *pool) settle() error {
	services := p.services()
	times := spread(len(p.members), 10*time.Minute, time.Second, func(i int) bool {
		usable, suspect := p.members[i].knows(services)
		return usable == len(p.members) && suspect == 0
	})
	pause(10 * time.Second)
	if missing := count(times, func(d time.Duration) bool { return d < 0 }); missing > 0 {
		return fmt.Errorf("%d of %d members do not know all the others after 10 min", missing, len(times))
	}
	return nil
}

// never is the time of what did not happen while it was watched.
const never = -time.Second

// pause lets the virtual clock run.
func pause(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // of the virtual clock, which is what a simulation waits for
}

// spread asks done for each of n things until it has said yes, every step for at most limit. It returns how long each took, [never] for those that
// did not.
func spread(n int, limit, step time.Duration, done func(i int) bool) []time.Duration {
	times := make([]time.Duration, n)
	for i := range times {
		times[i] = never
	}
	start := time.Now()
	for left := n; ; pause(step) {
		now := time.Since(start)
		for i := range times {
			if times[i] < 0 && done(i) {
				times[i] = now
				left--
			}
		}
		if left == 0 || now >= limit {
			return times
		}
	}
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
func idle(_ context.Context, p *pool, r *result, _ time.Duration) error {
	p.traffic(r, "idle", func() { pause(time.Minute) })
	return nil
}

// traffic notes what members send per second while f runs, and what CPU the whole simulation took.
func (p *pool) traffic(r *result, name string, f func()) {
	packets, bytes, streams, overflow, cpu := p.net.packets.Load(), p.net.bytes.Load(), p.net.streams.Load(), p.net.overflow.Load(), cpuTime()
	start := time.Now()
	f()
	each := float64(len(p.members)) * time.Since(start).Seconds()
	r.Figures[name+"_packets"] = float64(p.net.packets.Load()-packets) / each
	r.Figures[name+"_bytes"] = float64(p.net.bytes.Load()-bytes) / each
	r.Figures[name+"_streams_min"] = float64(p.net.streams.Load()-streams) / each * 60
	r.Figures[name+"_overflow"] = float64(p.net.overflow.Load() - overflow)
	r.Figures[name+"_cpu_us"] = float64((cpuTime() - cpu).Microseconds()) / each
}

// update announces a change at one member and watches it reach the others, five times.
func update(ctx context.Context, p *pool, r *result, _ time.Duration) error {
	var all []time.Duration
	for round := range 5 {
		m := p.members[round*len(p.members)/5]
		ep := m.endpoint(uint16(100 + round))
		errs := make(chan error, 1)
		go func() { errs <- m.Register(ctx, ep) }()
		all = append(all, spread(len(p.members), time.Minute, 10*time.Millisecond, func(i int) bool { return p.members[i].sees(ep) })...)
		if err := <-errs; err != nil {
			return err
		}
	}
	r.shares("update", all)
	return nil
}

// updatesPerSecond is what a rolling deploy of 10,000 processes wants.
const updatesPerSecond = 50

// rate announces 50 changes a second for 20 s, at members in turn, and notes which part of them had reached a member within 5 s.
func rate(ctx context.Context, p *pool, r *result, _ time.Duration) error {
	const total = 20 * updatesPerSecond
	seen := make([]float64, total)
	done := make(chan error, total)
	for k := range total {
		go func() {
			m := p.members[k*7919%len(p.members)]
			ep := m.endpoint(uint16(1000 + k)) //nolint:gosec // small
			err := m.Register(ctx, ep)
			pause(5 * time.Second)
			watch := min(len(p.members), 200) // a sample, the same for all
			seen[k] = float64(count(p.members[:watch], func(o *member) bool { return o.seesAtLeast(ep.Service, ep.Addr, ep.Weight) })) / float64(watch)
			done <- err
		}()
		pause(time.Second / updatesPerSecond)
	}
	var errs []error
	for range total {
		errs = append(errs, <-done)
	}
	slices.Sort(seen)
	r.Figures["rate_seen_median"] = seen[total/2]
	r.Figures["rate_seen_p1"] = seen[total/100] // 99 % of the updates were seen by at least this part
	return errors.Join(errs...)
}

// seesAtLeast is sees for an endpoint that may have been announced again since, with a larger weight.
func (m *member) seesAtLeast(service string, addr netip.AddrPort, weight uint16) bool {
	for _, have := range m.Lookup(service).Endpoints {
		if have.Addr == addr {
			return have.Weight >= weight
		}
	}
	return false
}

// crash kills one member in a hundred at once, at least one, and watches the others hold them for gone.
func crash(ctx context.Context, p *pool, r *result, _ time.Duration) error {
	k := max(1, len(p.members)/100)
	victims := slices.Clone(p.members[len(p.members)-k:])
	live := p.members[:len(p.members)-k]
	for _, v := range victims {
		v.host.kill()
	}
	times := spread(len(live)*k, 3*time.Minute, 50*time.Millisecond, func(i int) bool {
		v := victims[i%k]
		return live[i/k].lost(v.service, v.addr)
	})
	r.shares("crash", times)
	for i, v := range victims {
		_ = v.Close()
		if err := p.replace(ctx, len(live)+i); err != nil {
			return err
		}
	}
	return p.forgotten()
}

// forgotten waits until no member keeps an endpoint of a process that is gone.
func (p *pool) forgotten() error {
	services := p.services()
	left := count(spread(len(p.members), 5*time.Minute, time.Second, func(i int) bool {
		_, suspect := p.members[i].knows(services)
		return suspect == 0
	}), func(d time.Duration) bool { return d < 0 })
	if left > 0 {
		return fmt.Errorf("%d members keep endpoints of the dead for more than 5 min", left)
	}
	return nil
}

// replace starts a new process in the place of one that is gone.
func (p *pool) replace(ctx context.Context, index int) error {
	p.starts++
	m, err := p.start(ctx, index, p.starts-1)
	if err == nil {
		p.members[index] = m
	}
	return err
}

// restart has the process at index leave and a new one take its place.
func (p *pool) restart(ctx context.Context, index int) error {
	old := p.members[index]
	if err := old.Leave(ctx); err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		return err
	}
	return p.replace(ctx, index)
}

// churn restarts members at 10 % an hour.
func churn(ctx context.Context, p *pool, r *result, duration time.Duration) error {
	restarts := max(1, int(0.1*duration.Hours()*float64(len(p.members))))
	var err error
	p.traffic(r, "churn", func() {
		for i := range restarts {
			if err == nil {
				err = p.restart(ctx, seedCount+i%(len(p.members)-seedCount))
			}
			pause(duration / time.Duration(restarts))
		}
	})
	return err
}

// rolling restarts 200 members, or a third of a small pool, ten at once, and notes how long after the last one all know it.
func rolling(ctx context.Context, p *pool, r *result, _ time.Duration) error {
	k := min(200, len(p.members)/3)
	var err error
	start := time.Now()
	p.traffic(r, "rolling", func() {
		for i := 0; i < k && err == nil; i++ {
			err = p.restart(ctx, seedCount+i)
		}
	})
	if err != nil {
		return err
	}
	r.Figures["rolling_took"] = time.Since(start).Seconds()
	services := p.services()
	r.shares("rolling_after", spread(len(p.members), 5*time.Minute, 50*time.Millisecond, func(i int) bool {
		usable, suspect := p.members[i].knows(services)
		return usable == len(p.members) && suspect == 0
	}))
	return nil
}

// loss runs the pool with a part of the datagrams lost, and counts the members that others held for gone though they lived.
func loss(_ context.Context, p *pool, r *result, duration time.Duration) error {
	services := p.services()
	for _, percent := range p.losses {
		p.net.setLoss(float64(percent) / 100)
		slandered := make(map[netip.AddrPort]bool)
		pairs := 0
		for end := time.Now().Add(duration); time.Now().Before(end); pause(time.Second) {
			for _, m := range p.members {
				for _, s := range services {
					for _, ep := range m.Lookup(s).Endpoints {
						if ep.Suspect {
							slandered[ep.Addr] = true
							pairs++
						}
					}
				}
			}
		}
		r.Figures[fmt.Sprintf("false_deaths_%d", percent)] = float64(len(slandered))
		r.Figures[fmt.Sprintf("false_seconds_%d", percent)] = float64(pairs) / float64(len(p.members)) // a member's, on average
		p.net.setLoss(0)
		if err := p.settle(); err != nil {
			return err
		}
	}
	return nil
}

// partition cuts a third of the members off for 120 s, all seeds on the other side, and notes how long after the heal all know all.
func partition(_ context.Context, p *pool, r *result, _ time.Duration) error {
	third := make(map[netip.Addr]bool)
	for _, m := range p.members[len(p.members)-len(p.members)/3:] {
		third[m.host.Addr()] = true
	}
	p.net.split(func(a netip.Addr) bool { return third[a] })
	pause(2 * time.Minute)
	p.net.split(nil)
	services := p.services()
	r.shares("heal", spread(len(p.members), 5*time.Minute, 100*time.Millisecond, func(i int) bool {
		usable, suspect := p.members[i].knows(services)
		return usable == len(p.members) && suspect == 0
	}))
	return nil
}

// heap is what is in use after a collection, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse) //nolint:gosec // far below 2^63
}

// cpuTime is what the process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
