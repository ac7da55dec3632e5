package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// settleShare of a full run's time is kept for a second look at what was too noisy to call.
	settleShare = 3
	// settleRounds is how many rounds that has, at most.
	settleRounds = 101
	// settleMargin is kept for the report.
	settleMargin = 5 * time.Second
)

// settle looks longer at the goals that were too noisy to call: only those whom they compare take turns, and the verdict is by
// these rounds alone. To add them to the earlier ones, which chose them, would make the interval say more than it knows. How many there are depends on
// the time that is left, not on what they say.
func (b *bench) settle(ctx context.Context, selected []workload, all []outcome) error {
	var open []int
	for i, o := range all {
		if selected[i].again && slices.ContainsFunc(o.Verdicts, verdict.open) {
			open = append(open, i)
		}
	}
	end, bounded := ctx.Deadline()
	for n, i := range open {
		if bounded {
			left := time.Until(end) - settleMargin
			if left <= 0 {
				return nil
			}
			b.until = time.Now().Add(left / time.Duration(len(open)-n))
		}
		if err := b.again(ctx, selected[i], &all[i]); err != nil {
			return err
		}
	}
	return nil
}

// again replaces the verdicts of o that are open.
func (b *bench) again(ctx context.Context, w workload, o *outcome) error {
	var names []string
	for _, v := range o.Verdicts {
		if v.open() {
			names = append(names, v.Contender, o.named(v.Baseline, v.Figure))
		}
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(n string) bool { return n == "" })
	n := settleRounds
	if b.rounds > 0 {
		n = max(b.rounds, minRounds)
	}
	start := time.Now()
	r, failed, err := b.turns(ctx, w, names, n)
	if err != nil {
		return err
	}
	for name, err := range failed {
		o.Failed = append(o.Failed, fmt.Sprintf("%s, once more: %v", name, err))
	}
	slices.Sort(o.Failed)
	var said []string
	for i, v := range o.Verdicts {
		if !v.open() {
			continue
		}
		if again := v.judge(r); again.Ratio.Rounds >= v.Ratio.Rounds {
			o.Verdicts[i] = again
			said = append(said, fmt.Sprintf("%s %s, %s", again.what(), again.Ratio, again.Verdict))
		}
	}
	fmt.Fprintf(b.log, "%-22s %2d more in %4.1f s   %s\n", w.name, len(r[names[0]]), time.Since(start).Seconds(), strings.Join(said, "; "))
	return nil
}

// named is the contender that a goal compares with; of the sidecar pairs, the best one so far.
func (o *outcome) named(baseline, figure string) string {
	if baseline != bestSidecar {
		return baseline
	}
	best := ""
	var least float64
	for _, r := range o.Rows {
		if v, ok := r.Median[figure]; ok && slices.Contains(sidecarPairs(), r.Contender) && (best == "" || v < least) {
			best, least = r.Contender, v
		}
	}
	return best
}

// open reports whether the rounds did not tell.
func (v verdict) open() bool {
	return v.Ratio.Rounds > 0 && (strings.HasPrefix(v.Verdict, noisy) || strings.HasSuffix(v.Verdict, few))
}
