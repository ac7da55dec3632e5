package main

import (
	"fmt"
	"math"
	"strings"
)

// A panel plots figures against the number of members, both axes logarithmic.
type panel struct {
	title string
	lines []line
}

type line struct{ figure, label string }

func panels() []panel {
	return []panel{
		{"Seconds until 99 % know", []line{{"join_99", "burst join"}, {"crash_99", "crash"}, {"heal_99", "heal"}, {"update_99", "update"}}},
		{"Bytes a second of a member", []line{{"idle_bytes", "idle"}, {"churn_bytes", "10 % churn an hour"}, {"rolling_bytes", "rolling restart"}}},
		{"KiB of a member", []line{{"heap_kib", "heap and stacks"}}},
	}
}

const (
	panelWidth, panelHeight = 300, 276
	panelLeft, panelTop     = 48, 34
	plotWidth, plotHeight   = 230, 170
)

// picture draws the panels side by side, what is modelled with dashes. It follows the reader's light or dark theme.
func picture(results []*result) []byte {
	var b strings.Builder
	all := panels()
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img">
<title>Gossip against the number of members</title>
<style>text{font:12px system-ui,sans-serif;fill:#333}.t{font-weight:600}.a{stroke:#999;fill:none}.l0{stroke:#2563eb;fill:#2563eb}.l1{stroke:#d97706;fill:#d97706}.l2{stroke:#059669;fill:#059669}.l3{stroke:#9333ea;fill:#9333ea}path{fill:none!important;stroke-width:2}.m{stroke-dasharray:4 3}circle.m{fill:none!important;stroke-dasharray:none}
@media(prefers-color-scheme:dark){text{fill:#ddd}.a{stroke:#777}}</style>
`, panelWidth*len(all), panelHeight)
	for i, p := range all {
		p.draw(&b, i*panelWidth, results)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d">dashed: modelled</text>`+"\n", panelLeft, panelHeight-6)
	b.WriteString("</svg>\n")
	return []byte(b.String())
}

func (p panel) draw(b *strings.Builder, left int, results []*result) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, r := range results {
		for _, l := range p.lines {
			if v := r.Figures[l.figure]; v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	if low > high || len(results) == 0 {
		return
	}
	from, to := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	to = max(to, from+1)
	first, last := math.Log10(float64(results[0].N)), math.Log10(float64(results[len(results)-1].N))
	x := func(n int) float64 {
		return float64(left+panelLeft) + plotWidth*(math.Log10(float64(n))-first)/max(last-first, 1e-9)
	}
	y := func(v float64) float64 { return panelTop + plotHeight*(to-math.Log10(v))/(to-from) }

	fmt.Fprintf(b, `<text class="t" x="%d" y="18">%s</text><path class="a" d="M%d %dv%dh%d"/>`+"\n", left+panelLeft, p.title, left+panelLeft, panelTop, plotHeight, plotWidth)
	for e := from; e <= to; e++ {
		fmt.Fprintf(b, `<text x="%d" y="%.0f" text-anchor="end">%g</text>`+"\n", left+panelLeft-5, y(math.Pow(10, e))+4, math.Pow(10, e))
	}
	labelled := math.Inf(-1) // where a number stands
	for _, r := range results {
		if x(r.N) < labelled+36 {
			continue
		}
		labelled = x(r.N)
		fmt.Fprintf(b, `<text x="%.0f" y="%d" text-anchor="middle">%d</text>`+"\n", x(r.N), panelTop+plotHeight+16, r.N)
	}
	for i, l := range p.lines {
		for _, model := range []bool{false, true} {
			var path strings.Builder
			class := fmt.Sprintf("l%d", i)
			if model {
				class += " m"
			}
			for _, r := range results {
				v := r.Figures[l.figure]
				if v <= 0 || r.Model != model {
					continue
				}
				verb := "L"
				if path.Len() == 0 {
					verb = "M"
				}
				fmt.Fprintf(&path, "%s%.1f %.1f", verb, x(r.N), y(v))
				fmt.Fprintf(b, `<circle class="%s" cx="%.1f" cy="%.1f" r="3"/>`, class, x(r.N), y(v))
			}
			fmt.Fprintf(b, `<path class="%s" d="%s"/>`, class, path.String())
		}
		fmt.Fprintf(b, `<text x="%d" y="%d"><tspan class="l%d" stroke="none">●</tspan> %s</text>`+"\n",
			left+panelLeft+120*(i%2), panelTop+plotHeight+32+14*(i/2), i, l.label)
	}
}
