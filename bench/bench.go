package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"time"
)

// A bench is one run of the program.
type bench struct {
	env       env
	quick     bool
	only      *regexp.Regexp // workloads
	with      *regexp.Regexp // contenders
	rounds    int            // instead of the workload's own; 0 is those
	roundTime time.Duration
	log       io.Writer

	pairs   map[string]*contender
	until   time.Time // when the present workload has to be content with its rounds
	skipped []string  // notes for the report
}

// minRounds is the least that an interval of 95 % can be had of.
const minRounds = 6

// rounds holds the figures of each round of a workload, by contender. A round that failed is nil.
type rounds map[string][]figures

// series returns one figure over the rounds, NaN where it is missing.
func (r rounds) series(contender, figure string) []float64 {
	var s []float64
	for _, f := range r[contender] {
		v, ok := f[figure]
		if !ok {
			v = math.NaN()
		}
		s = append(s, v)
	}
	return s
}

// best returns the series of the contender with the least median.
func (r rounds) best(contenders []string, figure string) []float64 {
	var best []float64
	least := math.Inf(1)
	for _, c := range contenders {
		s := r.series(c, figure)
		if m := median(withoutNaN(s)); m < least {
			best, least = s, m
		}
	}
	return best
}

// run measures all selected workloads.
func (b *bench) run(ctx context.Context) ([]outcome, error) {
	var selected []workload
	for _, w := range workloads() {
		if b.only.MatchString(w.name) && (!b.quick || w.quickRounds > 0) {
			selected = append(selected, w)
		}
	}
	defer b.stop()
	b.start(ctx, selected)
	end, bounded := ctx.Deadline()
	if bounded && !b.quick {
		end = end.Add(-time.Until(end) / settleShare)
	}
	var all []outcome
	for i, w := range selected {
		if bounded {
			// What the earlier ones did not need, the later ones may use.
			b.until = time.Now().Add(2 * time.Until(end) / time.Duration(len(selected)-i+1))
		}
		o, err := b.measure(ctx, w)
		if err != nil {
			return all, err
		}
		all = append(all, o)
	}
	if b.quick {
		return all, nil
	}
	return all, b.settle(ctx, selected, all)
}

// start brings up the pairs of processes that the workloads need. What can't be had is left out, with a word.
func (b *bench) start(ctx context.Context, selected []workload) {
	b.pairs = make(map[string]*contender)
	for _, w := range selected {
		for _, name := range w.contenders {
			if !w.pairs || b.pairs[name] != nil || !b.with.MatchString(name) || slices.Contains(b.skipped, name) ||
				name == nameBefore && b.env.before == "" {
				continue
			}
			c, err := b.env.start(ctx, name)
			if err != nil {
				fmt.Fprintf(b.log, "%s is left out: %v\n", name, err)
				b.skipped = append(b.skipped, name)
				continue
			}
			b.pairs[name] = c
		}
	}
}

func (b *bench) stop() {
	for _, c := range b.pairs {
		c.stop()
	}
}

// measure runs the rounds of one workload.
func (b *bench) measure(ctx context.Context, w workload) (outcome, error) {
	var names []string
	for _, n := range w.contenders {
		if b.with.MatchString(n) && (!w.pairs || b.pairs[n] != nil) {
			names = append(names, n)
		}
	}
	if b.pairs[nameBefore] != nil {
		w.baselines = append(slices.Clip(w.baselines), nameBefore)
	}
	n := w.rounds
	if b.quick {
		n = w.quickRounds
	}
	if b.rounds > 0 {
		n = b.rounds
	}
	start := time.Now()
	r, failed, err := b.turns(ctx, w, names, n)
	if err != nil {
		return outcome{}, err
	}
	o := summarise(w, names, r)
	for name, err := range failed {
		o.Failed = append(o.Failed, fmt.Sprintf("%s: %v", name, err))
	}
	slices.Sort(o.Failed)
	fmt.Fprintf(b.log, "%-22s %2d rounds in %4.1f s  %s\n", w.name, o.Rounds, time.Since(start).Seconds(), o.line())
	return o, nil
}

// turns makes at most n rounds. In each of them every contender has its turn, in an order of its own, so that whatever else the
// machine does falls on all of them.
func (b *bench) turns(ctx context.Context, w workload, names []string, n int) (rounds, map[string]error, error) {
	r, failed := make(rounds), make(map[string]error)
	for i := range n {
		if i >= min(minRounds, n/2) && !b.until.IsZero() && time.Now().After(b.until) {
			break
		}
		for _, name := range names {
			r[name] = append(r[name], nil)
		}
		for _, at := range rand.Perm(len(names)) { //nolint:gosec // an order, not a secret
			name := names[at]
			if failed[name] != nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, nil, err
			}
			f, err := w.measure(ctx, b, name)
			if err != nil {
				failed[name] = err
				continue
			}
			r[name][i] = f
		}
	}
	for _, c := range b.pairs {
		c.unload()
	}
	return r, failed, nil
}
