package main

import (
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
		{"heap and stacks of a member (KiB)", "%.0f", []string{"heap_kib"}},
		{"CPU of an idle member (µs a second, network included)", "%.0f", []string{"idle_cpu_us"}},
	}
}

// markdown is the table, one column a size. A figure that was not measured is "–", one that was not reached ">".
func markdown(results []*result) string {
	var b strings.Builder
	b.WriteString("| members |")
	for _, r := range results {
		fmt.Fprintf(&b, " %d |", r.N)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(results)) + "\n")
	for _, row := range rows() {
		fmt.Fprintf(&b, "| %s |", row.title)
		for _, r := range results {
			var cells []string
			for _, name := range row.figures {
				switch v, ok := r.Figures[name]; {
				case !ok:
					cells = append(cells, "–")
				case v < 0:
					cells = append(cells, "never")
				default:
					cells = append(cells, fmt.Sprintf(row.format, v))
				}
			}
			fmt.Fprintf(&b, " %s |", strings.Join(cells, " / "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// merged adds what the file has from other runs, where these have nothing newer.
func merged(path string, results []*result) ([]*result, error) {
	b, err := os.ReadFile(path) //nolint:gosec // in the directory that the user names
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
		i := slices.IndexFunc(all, func(r *result) bool { return r.N == old.N })
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
	slices.SortFunc(all, func(a, b *result) int { return a.N - b.N })
	return all, nil
}

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
