package main

import (
	"context"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{3}, 0.99, 3},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{5, 1, 3}, 0.5, 3},
		{[]float64{0, 10}, 0.9, 9},
		{[]float64{2, 1}, 1, 2},
	} {
		if got := quantile(tt.values, tt.q); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("quantile(%v, %v) = %v, want %v", tt.values, tt.q, got, tt.want)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

func TestSpread(t *testing.T) {
	if got := spread([]float64{90, 100, 110, 100, 1000}); got != 0.1 {
		t.Errorf("spread = %v, want 0.1: an outlier counts once", got)
	}
}

// TestMedianIntervalIndexes compares with the published table for the sign test's interval.
func TestMedianIntervalIndexes(t *testing.T) {
	for n, want := range map[int]interval{6: {1, 6}, 8: {1, 8}, 9: {2, 8}, 12: {3, 10}, 15: {4, 12}, 20: {6, 15}, 30: {10, 21}} {
		var values []float64
		for i := range n {
			values = append(values, float64(i+1))
		}
		if got, ok := medianInterval(values); !ok || got != want {
			t.Errorf("%d values: interval %v, %v; want %v", n, got, ok, want)
		}
	}
	if got, ok := medianInterval([]float64{3, 1, 2, 5, 4}); ok || got != (interval{1, 5}) {
		t.Errorf("five values: interval %v, %v; want all of them and false", got, ok)
	}
}

// TestMedianIntervalCovers draws from a skewed distribution whose median is known.
func TestMedianIntervalCovers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	hit := 0
	const runs = 2000
	for range runs {
		values := make([]float64, 15)
		for i := range values {
			values[i] = rnd.ExpFloat64()
		}
		if iv, _ := medianInterval(values); iv.Low <= math.Ln2 && math.Ln2 <= iv.High {
			hit++
		}
	}
	if hit < runs*95/100 {
		t.Errorf("the interval held the median in %d of %d runs", hit, runs)
	}
}

func TestCompare(t *testing.T) {
	nan := math.NaN()
	// The machine slows down by ten from round to round; the ratio does not care.
	r := compare([]float64{2, 20, nan, 200, 2, 20, 200, 2000}, []float64{1, 10, 100, 100, 1, 10, 100, 1000})
	if r.Median != 2 || r.Rounds != 7 || !r.Sure {
		t.Errorf("compare = %+v, want a median of 2 in 7 rounds", r)
	}
}

// TestAbsentBaseline: without the contender that a goal compares with, the report says so and can be written.
func TestAbsentBaseline(t *testing.T) {
	w := workload{
		name: "w", headline: figTime, baselines: []string{namePlain},
		goals: []goal{ours(figTime, nameSPIFFE, 1), ours(figTime, bestSidecar, 1), added(figTime, nameTLS, 1), ours("nothing", "", 1), ours(figTime, namePlain, 2)},
	}
	r := rounds{namePlain: {{figTime: 1}, nil}, nameOurs: {{figTime: 2}, {figTime: 2}}}
	o := summarise(w, []string{namePlain, nameOurs}, r)
	if last := len(o.Verdicts) - 1; o.Verdicts[last].Verdict != met+few {
		t.Errorf("a goal with its baseline: %q", o.Verdicts[last].Verdict)
	} else {
		for _, v := range o.Verdicts[:last] {
			if v.Verdict != none {
				t.Errorf("%s: %q, want %q", v.what(), v.Verdict, none)
			}
		}
	}
	dir := t.TempDir()
	if err := (&report{Outcomes: []outcome{o}}).write(dir); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, "results.md"))
	if err != nil || strings.Contains(string(md), "NaN") {
		t.Errorf("%s, %v", md, err)
	}
}

func TestBestAndDifference(t *testing.T) {
	r := rounds{"a": {{figTime: 3}, nil, {figTime: 9}}, "b": {{figTime: 4}, {figTime: 2}, {figTime: 5}}}
	best := r.best([]string{"a", "absent", "b"}, figTime)
	if !slices.Equal(best, []float64{4, 2, 5}) {
		t.Errorf("best = %v, want those of b", best)
	}
	if d := difference([]float64{5, 5, math.NaN()}, best); d.Median != 2 || d.Rounds != 2 {
		t.Errorf("difference = %+v, want 2 in 2 rounds", d)
	}
}

func TestAtMost(t *testing.T) {
	sure := ratio{Median: 1, Interval: interval{0.9, 1.1}, Rounds: 10, Sure: true}
	for limit, want := range map[float64]string{1.2: met, 1.1: met, 1: noisy, 0.8: missed} {
		if got := sure.atMost(limit); got != want {
			t.Errorf("%v–%v at most %v: %q, want %q", sure.Interval.Low, sure.Interval.High, limit, got, want)
		}
	}
	unsure := sure
	unsure.Sure = false
	if got := unsure.atMost(2); got != met+few {
		t.Errorf("too few rounds: %q, want %q", got, met+few)
	}
	if got := compare(nil, nil).atMost(1); got != none {
		t.Errorf("no rounds: %q, want %q", got, none)
	}
}

// TestSettle: what the rounds could not call is decided by more of them, with those alone whom the goal compares.
func TestSettle(t *testing.T) {
	value, asked := 1.0, make(map[string]int)
	w := workload{
		name: "w", headline: figTime, rounds: 8, again: true, contenders: []string{namePlain, nameTLS, "haproxy", nameOurs},
		goals: []goal{ours(figTime, nameTLS, 1.05), ours(figTime, namePlain, 3), ours(figTime, bestSidecar, 0.1)},
		measure: func(_ context.Context, _ *bench, name string) (figures, error) {
			asked[name]++
			switch {
			case name == nameTLS:
				return figures{figTime: 1}, nil
			case name == nameOurs && len(asked) > 1: // it swings about the limit
				value = 2.1 - value
				return figures{figTime: value + 0.01}, nil
			}
			return figures{figTime: 2}, nil
		},
	}
	b := bench{with: regexp.MustCompile(""), log: io.Discard}
	o, err := b.measure(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	first := slices.Clone(o.Verdicts)
	clear(asked)
	w.measure = func(_ context.Context, _ *bench, name string) (figures, error) {
		asked[name]++
		return figures{figTime: map[string]float64{nameTLS: 1, nameOurs: 1.04}[name]}, nil
	}
	all := []outcome{o}
	if err := b.settle(t.Context(), []workload{w}, all); err != nil {
		t.Fatal(err)
	}
	if got := all[0].Verdicts[0]; first[0].Verdict != noisy || got.Verdict != met || got.Ratio.Rounds != settleRounds {
		t.Errorf("the goal that was open: %q, then %q by %d rounds", first[0].Verdict, got.Verdict, got.Ratio.Rounds)
	}
	if all[0].Verdicts[1] != first[1] || all[0].Verdicts[2] != first[2] {
		t.Error("a goal that was clear has another verdict")
	}
	if len(asked) != 2 || asked[nameTLS] != asked[nameOurs] {
		t.Errorf("rounds: %v, want those of the goal alone", asked)
	}
}
