package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A report is what a run found.
type report struct {
	Machine  string    `json:"machine"`
	Go       string    `json:"go"`
	Date     string    `json:"date"`
	Quick    bool      `json:"quick"`
	Seconds  float64   `json:"seconds"`
	LoadAvg  string    `json:"load_average,omitempty"`
	Skipped  []string  `json:"skipped,omitempty"`
	Outcomes []outcome `json:"workloads"`

	start time.Time
}

func newReport(quick bool) *report {
	return &report{Machine: machine(), Go: runtime.Version(), Quick: quick, start: time.Now(), LoadAvg: loadAverage()}
}

func (r *report) finish(skipped []string) {
	r.Skipped, r.Seconds, r.Date = skipped, time.Since(r.start).Seconds(), r.start.UTC().Format(time.DateOnly)
}

func machine() string {
	model := runtime.GOARCH
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if name, ok := strings.CutPrefix(s.Text(), "model name"); ok {
				model = strings.TrimLeft(name, "\t :")
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d processors, %s", model, runtime.NumCPU(), runtime.GOOS)
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(b))[:1], " ")
}

// write puts the report into a directory, as Markdown, JSON and a picture.
func (r *report) write(dir string) error {
	js, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	var md strings.Builder
	if err := r.markdown(&md); err != nil {
		return err
	}
	save := func(name string, data []byte) error { return os.WriteFile(filepath.Join(dir, name), data, 0o644) } //nolint:gosec // results are for everybody
	return errors.Join(save("results.json", append(js, '\n')), save("results.md", []byte(md.String())), save("results.svg", picture(r)))
}

func (r *report) markdown(w io.Writer) error {
	var b strings.Builder
	mode := "full run"
	if r.Quick {
		mode = "quick run"
	}
	fmt.Fprintf(&b, "# What the mesh costs\n\n%s, %s, %s: %s of %.0f s. Load average at the start: %s.\n\n", r.Date, r.Machine, r.Go, mode, r.Seconds, r.LoadAvg)
	b.WriteString("A ratio is the median over the rounds of this contender's figure by the baseline's of the same round; the brackets hold\n" +
		"the true median with 95 % confidence (with all rounds, where these are too few for that: marked ?). Lower is better. ± is the median absolute deviation of the first\n" +
		"figure from round to round: the machine's noise. A goal that was too noisy to call was looked at once more by rounds of its own, with those alone whom it compares. CPU is that of all processes for one operation, allocations those of the Go programs.\n")
	if len(r.Skipped) > 0 {
		fmt.Fprintf(&b, "\nLeft out, since not installed or not starting: %s.\n", strings.Join(r.Skipped, ", "))
	}
	r.goals(&b)
	for _, o := range r.Outcomes {
		o.markdown(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// goals is the table of what ours must reach.
func (r *report) goals(b *strings.Builder) {
	fmt.Fprintf(b, "\n## Goals\n\n| workload | figure | at most | measured | rounds | |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, o := range r.Outcomes {
		for _, v := range o.Verdicts {
			switch {
			case v.Ratio.Rounds == 0:
				fmt.Fprintf(b, "| %s | %s | %.4g | – | 0 | %s |\n", o.Name, v.what(), v.AtMost, v.Verdict)
				continue
			case v.Added || v.Baseline == "":
				fmt.Fprintf(b, "| %s | %s | %s | %s (%s–%s) | %d | %s |\n", o.Name, v.what(), format(v.Figure, v.AtMost),
					format(v.Figure, v.Ratio.Median), format(v.Figure, v.Ratio.Interval.Low), format(v.Figure, v.Ratio.Interval.High), v.Ratio.Rounds, v.Verdict)
				continue
			}
			fmt.Fprintf(b, "| %s | %s | %.2f | %s | %d | %s |\n", o.Name, v.what(), v.AtMost, v.Ratio, v.Ratio.Rounds, v.Verdict)
		}
	}
}

// what is bounded, in words.
func (g goal) what() string {
	switch {
	case g.Baseline == "":
		return g.Figure + " of " + g.Contender
	case g.Added:
		return g.Figure + " more than " + g.Baseline
	}
	return g.Figure + " by " + g.Baseline
}

// String writes the ratio with its interval.
func (r ratio) String() string {
	if r.Rounds == 0 {
		return "–"
	}
	mark := ""
	if !r.Sure {
		mark = "?"
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)%s", r.Median, r.Interval.Low, r.Interval.High, mark)
}

func (o outcome) markdown(b *strings.Builder) {
	if len(o.Rows) == 0 {
		fmt.Fprintf(b, "\n## %s\n\nFailed: %s\n", o.Title, strings.Join(o.Failed, "; "))
		return
	}
	figures := []string{o.Headline}
	for _, f := range []string{figTime, figP50, figP99, figWorst, figApply, figByAlone, figPause, figCalm, figClient, figModules, figRule, figCPU, figAllocs, figOpen, figMade, figMemory} {
		if _, ok := o.Rows[0].Median[f]; ok && f != o.Headline {
			figures = append(figures, f)
		}
	}
	fmt.Fprintf(b, "\n## %s\n\n`%s`, %d rounds.\n\n| |", o.Title, o.Name, o.Rounds)
	for i, f := range figures {
		fmt.Fprintf(b, " %s |", f)
		if i == 0 {
			b.WriteString(" ± |")
			for _, base := range o.Baselines {
				fmt.Fprintf(b, " × %s |", base)
			}
		}
		if f == figCPU {
			for _, base := range o.Baselines {
				fmt.Fprintf(b, " × %s |", base)
			}
		}
	}
	columns := strings.Count(b.String()[strings.LastIndex(b.String(), "\n"):], "|") - 1
	b.WriteString("\n|" + strings.Repeat(" --- |", columns) + "\n")
	for _, r := range o.Rows {
		fmt.Fprintf(b, "| %s |", r.Contender)
		for i, f := range figures {
			fmt.Fprintf(b, " %s |", format(f, r.Median[f]))
			if i == 0 {
				fmt.Fprintf(b, " %.0f %% |", 100*r.Spread)
				for _, base := range o.Baselines {
					fmt.Fprintf(b, " %s |", r.Ratios[base])
				}
			}
			if f == figCPU {
				for _, base := range o.Baselines {
					fmt.Fprintf(b, " %s |", r.CPU[base])
				}
			}
		}
		b.WriteString("\n")
	}
	for _, f := range o.Failed {
		fmt.Fprintf(b, "\nFailed: %s\n", f)
	}
}
