package main

import (
	"fmt"
	"math"
	"strings"
)

// An outcome is what the report says of a workload.
type outcome struct {
	Name      string    `json:"name"`
	Title     string    `json:"title"`
	Headline  string    `json:"headline"`
	Rounds    int       `json:"rounds"`
	Baselines []string  `json:"baselines,omitempty"`
	Rows      []row     `json:"rows"`
	Verdicts  []verdict `json:"goals,omitempty"`
	Failed    []string  `json:"failed,omitempty"`
}

// A row is one contender: the median of each figure over the rounds, and how it compares.
type row struct {
	Contender string             `json:"contender"`
	Median    map[string]float64 `json:"median"`
	// Spread is the median absolute deviation of the headline over the rounds, as a share of its median.
	Spread float64 `json:"spread"`
	// Ratios are of the headline and of the processor time, by baseline.
	Ratios map[string]ratio `json:"ratios,omitempty"`
	CPU    map[string]ratio `json:"cpu_ratios,omitempty"`
}

// A verdict says whether a goal was met.
type verdict struct {
	goal
	Ratio   ratio  `json:"ratio"`
	Verdict string `json:"verdict"`
}

func summarise(w workload, names []string, r rounds) outcome {
	o := outcome{Name: w.name, Title: w.title, Headline: w.headline, Baselines: w.baselines}
	for _, name := range names {
		row := row{Contender: name, Median: make(map[string]float64), Ratios: make(map[string]ratio), CPU: make(map[string]ratio)}
		o.Rounds = max(o.Rounds, len(r[name]))
		present := make(map[string]bool)
		for _, f := range r[name] {
			for k := range f {
				present[k] = true
			}
		}
		for k := range present {
			row.Median[k] = median(withoutNaN(r.series(name, k)))
		}
		row.Spread = spread(withoutNaN(r.series(name, w.headline)))
		for _, base := range w.baselines {
			if q := compare(r.series(name, w.headline), r.series(base, w.headline)); q.Rounds > 0 {
				row.Ratios[base] = q
			}
			if q := compare(r.series(name, figCPU), r.series(base, figCPU)); q.Rounds > 0 {
				row.CPU[base] = q
			}
		}
		if len(present) > 0 {
			o.Rows = append(o.Rows, row)
		}
	}
	for _, g := range w.goals {
		o.Verdicts = append(o.Verdicts, g.judge(r))
	}
	return o
}

func (g goal) judge(r rounds) verdict {
	of, q := r.series(g.Contender, g.Figure), ratio{}
	switch {
	case g.Baseline == "":
		q = summary(of)
	case g.Added:
		q = difference(of, r.series(g.Baseline, g.Figure))
	case g.Baseline == bestSidecar:
		q = compare(of, r.best(sidecarPairs(), g.Figure))
	default:
		q = compare(of, r.series(g.Baseline, g.Figure))
	}
	return verdict{g, q, q.atMost(g.AtMost)}
}

func withoutNaN(values []float64) []float64 {
	var out []float64
	for _, v := range values {
		if !math.IsNaN(v) {
			out = append(out, v)
		}
	}
	return out
}

// line is the outcome in short, for whoever waits.
func (o outcome) line() string {
	var parts []string
	for _, r := range o.Rows {
		s := r.Contender + " " + format(o.Headline, r.Median[o.Headline])
		if len(o.Baselines) > 0 {
			if q, ok := r.Ratios[o.Baselines[0]]; ok && r.Contender != o.Baselines[0] {
				s += fmt.Sprintf(" (%.2f)", q.Median)
			}
		}
		parts = append(parts, s)
	}
	for _, f := range o.Failed {
		parts = append(parts, "FAILED "+f)
	}
	return strings.Join(parts, ", ")
}

// format writes a figure with its unit.
func format(figure string, v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	switch figure {
	case figTime, figWorst, figApply, figP50, figP99, figCPU, figPause, figCalm:
		return duration(v)
	case figSize:
		return fmt.Sprintf("%.2f MiB", v/(1<<20))
	case figMemory:
		return fmt.Sprintf("%.1f MiB", v/1024)
	case figBytes, figRule:
		return fmt.Sprintf("%.0f B", v)
	case figAllocs:
		if v >= 10 {
			return fmt.Sprintf("%.0f", v)
		}
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// duration writes nanoseconds with three digits.
func duration(ns float64) string {
	unit, name := 1.0, "ns"
	switch {
	case ns >= 999.5e6:
		unit, name = 1e9, "s"
	case ns >= 999.5e3:
		unit, name = 1e6, "ms"
	case ns >= 999.5:
		unit, name = 1e3, "µs"
	}
	return fmt.Sprintf("%.3g %s", ns/unit, name)
}
