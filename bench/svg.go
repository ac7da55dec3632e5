package main

import (
	"fmt"
	"slices"
	"strings"
)

// pictured are the workloads in the picture, with what stands above their bars.
func pictured() []struct{ name, title string } {
	return []struct{ name, title string }{
		{"echo/1KiB/1", "Echo of 1 KiB"},
		{"bulk/64KiB/1", "Bulk transfer"},
		{"http1/16", "HTTP/1.1 request, 16 in flight"},
		{"grpc/16", "gRPC call, 16 in flight"},
		{"dial/cold/8", "Dial to a new peer, 8 at a time"},
		{"dial/warm/8", "Dial to a peer already talked to"},
	}
}

const (
	svgColumns = 2
	svgColumn  = 390
	svgTop     = 56
	svgLeft    = 124
	svgBars    = 230 // of the longest, with its interval
	svgRow     = 18
	svgHeading = 36
)

// picture draws how many times as long as plaintext each contender takes, as horizontal bars with their 95 % interval. Each
// workload has a scale of its own, with plaintext's bar in it. It follows the reader's light or dark theme.
func picture(r *report) []byte {
	var b strings.Builder
	var bottom, shown int
	top := svgTop
	for _, p := range pictured() {
		i := slices.IndexFunc(r.Outcomes, func(o outcome) bool { return o.Name == p.name })
		if i < 0 || len(r.Outcomes[i].Rows) == 0 {
			continue
		}
		column := shown % svgColumns
		if shown++; column == 0 {
			top = max(top, bottom)
		}
		left, y := column*svgColumn, top+svgHeading
		fmt.Fprintf(&b, `<text class="h" x="%d" y="%d">%s</text>`+"\n", left+svgLeft, y-8, p.title)
		rows := slices.Clone(r.Outcomes[i].Rows)
		rows = slices.DeleteFunc(rows, func(row row) bool { return row.Ratios[namePlain].Rounds == 0 })
		longest := 1.0
		for _, row := range rows {
			longest = max(longest, row.Ratios[namePlain].Median*1.25)
		}
		for _, row := range rows {
			drawBar(&b, left, y, row.Contender, row.Ratios[namePlain], svgBars/longest)
			y += svgRow
		}
		bottom = max(bottom, y)
	}
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img">
<title>Time per operation beside plaintext, lower is better</title>
<style>
text { font: 12px system-ui, sans-serif; fill: #24292f } .h { font-weight: 600 } .t { font-size: 15px; font-weight: 600 } .s { fill: #57606a; font-size: 11px }
.bar { fill: #afb8c1 } .ours { fill: #1a7f37 } .w { stroke: #57606a }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .s { fill: #8b949e } .bar { fill: #484f58 } .ours { fill: #3fb950 } .w { stroke: #8b949e } }
</style>
<text class="t" x="10" y="24">Time per operation, plaintext = 1 (shorter is better)</text>
<text class="s" x="10" y="42">%s, %s, loopback. Each workload has its own scale; line: 95 %% interval over the rounds</text>
`, svgColumns*svgColumn, max(bottom, svgTop)+14, r.Machine, r.Go)
	return []byte(head + b.String() + "</svg>\n")
}

func drawBar(b *strings.Builder, left, y int, name string, q ratio, scale float64) {
	class := "bar"
	if name == nameOurs || name == nameHost {
		class = "ours"
	}
	zero := left + svgLeft
	at := func(v float64) float64 { return float64(zero) + min(v*scale, svgBars) }
	mid := y + svgRow/2 - 2
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, zero-8, y+11, name)
	fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, class, zero, y, q.Median*scale, svgRow-4)
	fmt.Fprintf(b, `<line class="w" x1="%.1f" y1="%d" x2="%.1f" y2="%[2]d"/>`, at(q.Interval.Low), mid, at(q.Interval.High))
	fmt.Fprintf(b, `<text x="%.1f" y="%d">%.2f</text>`+"\n", max(at(q.Interval.High), at(q.Median))+5, y+11, q.Median)
}
