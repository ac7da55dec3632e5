package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A row of the table: what stands on its left, the figures it shows, and how.
type row struct {
	title, format string
	figures       []string
}

func rows() []row {
	return []row{
		{"burst join, all know all: 50/99/100 % (s)", "%.1f", []string{"join_50", "join_99", "join_100"}},
		{"update seen by 50/99/100 % (s)", "%.2f", []string{"update_50", "update_99", "update_100"}},
		{"50 updates a second: seen after 5 s, median and worst 1 % of updates (share of members)", "%.3f", []string{"rate_seen_median", "rate_seen_p1"}},
		{"1 % crash at once, gone for 50/99/100 % (s)", "%.1f", []string{"crash_50", "crash_99", "crash_100"}},
		{"false deaths at 0/5/20 % loss (members)", "%.0f", []string{"false_deaths_0", "false_deaths_5", "false_deaths_20"}},
		{"a third cut off for 120 s, whole again after the heal: 50/99/100 % (s)", "%.1f", []string{"heal_50", "heal_99", "heal_100"}},
		{"idle: packets and bytes a second, streams a minute, of a member", "%.1f", []string{"idle_packets", "idle_bytes", "idle_streams_min"}},
		{"10 % restarted in an hour: packets and bytes a second", "%.1f", []string{"churn_packets", "churn_bytes"}},
		{"rolling restart of 200: duration (s), then known by 50/99/100 % (s)", "%.1f", []string{"rolling_took", "rolling_after_50", "rolling_after_99", "rolling_after_100"}},
		{"bytes that a seed sends for a burst join, at most (MiB)", "%.0f", []string{"join_seed_mib"}},
		{"an observer of three services: bytes a second, both ways, and heap and stacks of both ends of its streams (KiB)", "%.0f", []string{"observer_bytes", "observer_kib"}},
		{"an update is seen by 50/99/100 % of the observers (s)", "%.2f", []string{"observer_update_50", "observer_update_99", "observer_update_100"}},
		{"heap and stacks of a member (KiB)", "%.0f", []string{"heap_kib"}},
		{"CPU of an idle member (µs a second, network included)", "%.0f", []string{"idle_cpu_us"}},
	}
}

// markdown is the figures in a table, one column a size, and in another what the model says divided by what was measured of real members. A figure
// that was not measured is "–", one that was not reached "never".
func markdown(results []*result) string {
	var b strings.Builder
	table(&b, "members", results, func(r *result) string {
		if r.Model {
			return fmt.Sprintf("%d modelled", r.N)
		}
		return fmt.Sprint(r.N)
	}, func(r *result, format, name string) string {
		switch v, ok := r.Figures[name]; {
		case !ok:
			return "–"
		case v < 0:
			return "never"
		default:
			return fmt.Sprintf(format, v)
		}
	})
	if pairs := both(results); len(pairs) > 0 {
		b.WriteString("\n")
		table(&b, "modelled / real", pairs, func(r *result) string { return fmt.Sprint(r.N) }, func(r *result, _, name string) string {
			if v, ok := r.Figures[name]; ok {
				return fmt.Sprintf("%.2f", v)
			}
			return "–"
		})
	}
	return b.String()
}

// table writes one row for each of rows, without those that would be empty.
func table(b *strings.Builder, corner string, columns []*result, head func(*result) string, cell func(r *result, format, name string) string) {
	fmt.Fprintf(b, "| %s |", corner)
	for _, r := range columns {
		fmt.Fprintf(b, " %s |", head(r))
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(columns)) + "\n")
	for _, row := range rows() {
		if !slices.ContainsFunc(columns, func(r *result) bool {
			return slices.ContainsFunc(row.figures, func(name string) bool { _, ok := r.Figures[name]; return ok })
		}) {
			continue
		}
		fmt.Fprintf(b, "| %s |", row.title)
		for _, r := range columns {
			var cells []string
			for _, name := range row.figures {
				cells = append(cells, cell(r, row.format, name))
			}
			fmt.Fprintf(b, " %s |", strings.Join(cells, " / "))
		}
		b.WriteString("\n")
	}
}

// both divides the figures of the model by those of real members, for the sizes that both have.
func both(results []*result) (pairs []*result) {
	for _, model := range results {
		i := slices.IndexFunc(results, func(r *result) bool { return r.N == model.N && !r.Model })
		if !model.Model || i < 0 {
			continue
		}
		pair := &result{N: model.N, Figures: make(map[string]float64)}
		for name, v := range results[i].Figures {
			if m := model.Figures[name]; v > 0 && m > 0 {
				pair.Figures[name] = m / v
			}
		}
		pairs = append(pairs, pair)
	}
	return pairs
}

// merged adds what the file has from other runs, where these have nothing newer.
func merged(path string, results []*result) ([]*result, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return results, nil
	}
	var before []*result
	if err == nil {
		err = json.Unmarshal(b, &before)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	all := slices.Clone(results)
	for _, old := range before {
		i := slices.IndexFunc(all, func(r *result) bool { return r.same(old) })
		if i < 0 {
			all = append(all, old)
			continue
		}
		sum := *all[i]
		sum.Figures = maps.Clone(old.Figures)
		maps.Copy(sum.Figures, all[i].Figures)
		sum.Real, sum.CPU = sum.Real+old.Real, sum.CPU+old.CPU
		all[i] = &sum
	}
	slices.SortFunc(all, func(a, b *result) int {
		if a.N == b.N && a.Model {
			return 1
		}
		return cmp.Or(a.N-b.N, -1)
	})
	return all, nil
}

func (r *result) same(o *result) bool { return r.N == o.N && r.Model == o.Model }

// write puts the table, the figures and the picture into dir.
func write(dir string, results []*result) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // a report, for everybody
		return err
	}
	results, err := merged(filepath.Join(dir, "gossip.json"), results)
	if err != nil {
		return err
	}
	figures, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{
		"gossip.md": []byte(markdown(results)), "gossip.json": append(figures, '\n'), "gossip.svg": picture(results),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil { //nolint:gosec // a report, for everybody
			return err
		}
	}
	return nil
}
