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
		{"http1/16", "HTTP/1.1 request, 16 in flight"},
		{"grpc/16", "gRPC call, 16 in flight"},
		{"bulk/64KiB/1", "Bulk transfer"},
	}
}

const (
	svgWidth   = 720
	svgLeft    = 110
	svgBars    = 500 // of the longest
	svgRow     = 20
	svgHeading = 34
)

// picture draws how many times as long as plaintext each contender takes, as horizontal bars with their 95 % interval. It
// follows the reader's light or dark theme.
func picture(r *report) []byte {
	var shown []outcome
	longest := 1.0
	for _, p := range pictured() {
		i := slices.IndexFunc(r.Outcomes, func(o outcome) bool { return o.Name == p.name })
		if i < 0 || len(r.Outcomes[i].Rows) == 0 {
			continue
		}
		o := r.Outcomes[i]
		o.Title = p.title
		shown = append(shown, o)
		for _, row := range o.Rows {
			longest = max(longest, row.Ratios[namePlain].Median)
		}
	}
	var b strings.Builder
	y := 44
	for _, o := range shown {
		y += svgHeading
		fmt.Fprintf(&b, `<text class="h" x="%d" y="%d">%s</text>`+"\n", svgLeft, y-10, o.Title)
		for _, row := range o.Rows {
			q, ok := row.Ratios[namePlain]
			if !ok {
				continue
			}
			drawBar(&b, y, row.Contender, q, svgBars/longest)
			y += svgRow
		}
	}
	y += 30
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%d" role="img">
<title>Time per operation beside plaintext, lower is better</title>
<style>
text { font: 12px system-ui, sans-serif; fill: #24292f } .h { font-weight: 600 } .t { font-size: 15px; font-weight: 600 } .s { fill: #57606a; font-size: 11px }
.bar { fill: #afb8c1 } .ours { fill: #1a7f37 } .w { stroke: #57606a }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .s { fill: #8b949e } .bar { fill: #484f58 } .ours { fill: #3fb950 } .w { stroke: #8b949e } }
</style>
<text class="t" x="10" y="24">Time per operation, plaintext = 1 (shorter is better)</text>
<text class="s" x="10" y="42">%s, %s, loopback; line: 95 %% interval over the rounds</text>
`, svgWidth, y, r.Machine, r.Go)
	return []byte(head + b.String() + "</svg>\n")
}

func drawBar(b *strings.Builder, y int, name string, q ratio, scale float64) {
	class := "bar"
	if name == nameOurs {
		class = "ours"
	}
	at := func(v float64) float64 { return svgLeft + min(v*scale, svgBars+40) }
	mid := y + svgRow/2 - 2
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, svgLeft-8, y+12, name)
	fmt.Fprintf(b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, class, svgLeft, y, q.Median*scale, svgRow-5)
	fmt.Fprintf(b, `<line class="w" x1="%.1f" y1="%d" x2="%.1f" y2="%[2]d"/>`, at(q.Interval.Low), mid, at(q.Interval.High))
	fmt.Fprintf(b, `<text x="%.1f" y="%d">%.2f</text>`+"\n", max(at(q.Interval.High), at(q.Median))+6, y+12, q.Median)
}
