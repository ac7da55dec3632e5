package main

import (
	"math"
	"slices"
)

// quantile returns the q-quantile of values by linear interpolation (Hyndman and Fan's type 7), NaN for none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	at := q * float64(len(s)-1)
	lo := int(at)
	if lo == len(s)-1 {
		return s[lo]
	}
	return s[lo] + (at-float64(lo))*(s[lo+1]-s[lo])
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// spread returns the median absolute deviation as a share of the median: how much a figure moves from one round to the
// next on this machine.
func spread(values []float64) float64 {
	m := median(values)
	dev := make([]float64, len(values))
	for i, v := range values {
		dev[i] = math.Abs(v - m)
	}
	return median(dev) / m
}

// An interval says where the true median is, at a confidence of 95 %.
type interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// medianInterval returns the interval between two order statistics that holds the median with a probability of at
// least 95 %, whatever the distribution (see Conover, Practical Nonparametric Statistics, section 3.2). Fewer than six values
// can't give that: ok is then false, and the interval is all of them.
func medianInterval(values []float64) (_ interval, ok bool) {
	n := len(values)
	if n == 0 {
		return interval{math.NaN(), math.NaN()}, false
	}
	s := slices.Sorted(slices.Values(values))
	// tail is the probability that at most k of n values are below the median.
	tail, p := 0.0, math.Pow(0.5, float64(n))
	k := 0
	for ; k < n/2 && tail+p <= 0.025; k++ {
		tail += p
		p *= float64(n-k) / float64(k+1)
	}
	if k == 0 {
		return interval{s[0], s[n-1]}, false
	}
	return interval{s[k-1], s[n-k]}, true
}

// A ratio compares a contender with the baseline by the quotients of the figures taken in the same round.
type ratio struct {
	Median   float64  `json:"median"`
	Interval interval `json:"interval"`
	Rounds   int      `json:"rounds"`
	// Sure is false when there were too few rounds for the interval to mean 95 %.
	Sure bool `json:"sure"`
}

// compare pairs by round. A round that lacks one of the two (NaN) does not count.
func compare(of, baseline []float64) ratio {
	return summary(paired(of, baseline, func(a, b float64) float64 { return a / b }))
}

// difference is compare with how much more it is, not how many times as much.
func difference(of, baseline []float64) ratio {
	return summary(paired(of, baseline, func(a, b float64) float64 { return a - b }))
}

func paired(of, baseline []float64, f func(a, b float64) float64) []float64 {
	var all []float64
	for i := range min(len(of), len(baseline)) {
		all = append(all, f(of[i], baseline[i]))
	}
	return all
}

// summary is the zero ratio when no round counts.
func summary(values []float64) ratio {
	values = slices.DeleteFunc(slices.Clone(values), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
	if len(values) == 0 {
		return ratio{}
	}
	r := ratio{Median: median(values), Rounds: len(values)}
	r.Interval, r.Sure = medianInterval(values)
	return r
}

// The verdicts on a goal.
const (
	met    = "met"
	missed = "missed"
	noisy  = "too noisy to call"
	none   = "not measured"
	few    = ", by few rounds"
)

// atMost tells whether the ratio is at most limit, or that the noise, or a contender that is absent, does not let us say so.
func (r ratio) atMost(limit float64) string {
	mark := ""
	if !r.Sure {
		mark = few
	}
	switch {
	case r.Rounds == 0:
		return none
	case r.Interval.High <= limit:
		return met + mark
	case r.Interval.Low > limit:
		return missed + mark
	}
	return noisy
}
