package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// A printer tells the story: a numbered line for each step with the time it took, and what was
// seen below it. It colours on a terminal, unless NO_COLOR (https://no-color.org) is set.
type printer struct {
	w        io.Writer
	terminal bool // rewrite the line of the step that runs
	colour   bool
	begun    time.Time
	steps    int
}

func newPrinter(f *os.File) *printer {
	info, err := f.Stat()
	tty := err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	return &printer{w: f, terminal: tty, colour: tty && os.Getenv("NO_COLOR") == "", begun: time.Now()}
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

func (p *printer) paint(style, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[0m"
}

func (p *printer) title(format string, args ...any) {
	fmt.Fprintf(p.w, "%s\n", fmt.Sprintf(format, args...))
}

// A step is one numbered part of the story. Its details are printed when it is done.
type step struct {
	p       *printer
	title   string
	begun   time.Time
	details []string
}

func (p *printer) step(title string) *step {
	p.steps++
	if p.terminal {
		fmt.Fprintf(p.w, "\n%2d  %s …", p.steps, p.paint(dim, title))
	}
	return &step{p: p, title: title, begun: time.Now()}
}

// say adds a detail; label is short, "HTTP".
func (s *step) say(label, format string, args ...any) {
	s.details = append(s.details, fmt.Sprintf("    %s%s", s.p.paint(dim, fmt.Sprintf("%-12s", label)), fmt.Sprintf(format, args...)))
}

func (s *step) done() {
	head := "\n"
	if s.p.terminal {
		head = "\r\x1b[K"
	}
	took := time.Since(s.begun)
	fmt.Fprintf(s.p.w, "%s%2d  %s%s %s\n", head, s.p.steps, s.p.paint(bold, s.title),
		strings.Repeat(" ", max(1, 70-len([]rune(s.title)))), s.p.paint(green, fmt.Sprintf("%8s", ms(took))))
	for _, d := range s.details {
		fmt.Fprintln(s.p.w, d)
	}
}

func (p *printer) fail() {
	if p.steps == 0 {
		return
	}
	fmt.Fprintf(p.w, "\n%s\n", p.paint(red, fmt.Sprintf("step %d does not hold", p.steps)))
}

func (p *printer) end() {
	fmt.Fprintf(p.w, "\n%s\n", p.paint(green, fmt.Sprintf("all %d steps hold, in %.1f s", p.steps, time.Since(p.begun).Seconds())))
}

// ms shows a duration as a person reads it.
func ms(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%d ms", d.Round(time.Millisecond).Milliseconds())
}

func (p *printer) explore(pid int, dir string) {
	fmt.Fprintf(p.w, "\n    %s pid %-8d back, and all stays up until you press Ctrl-C\n%s", p.paint(dim, "control    "), pid, fmt.Sprintf(`
In another terminal, in this directory:

  export MESH_DIR=%s
  go run ./control/cmd/mesh members
  go run ./control/cmd/mesh policy list
  go run ./control/cmd/mesh explain orders payments POST /charge
  go run ./control/cmd/mesh explain orders payments GET /charge
  MESH_BOOTSTRAP=$(go run ./control/cmd/mesh token orders) go run ./examples/http client
`, dir))
}
