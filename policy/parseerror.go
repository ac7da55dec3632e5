package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A ParseError lists what is wrong with rules that were not accepted. Nothing of such an
// input is used.
type ParseError struct {
	// Problems is never empty. It ends early when there are very many.
	Problems []Problem `json:"problems"`
}

// A Problem is one thing that is wrong, and where.
type Problem struct {
	// File is the name that was given to [Parse] or [Decode]; it may be empty.
	File string `json:"file,omitempty"`
	// Line and Column, from 1, are 0 when the rules did not come from a text.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Document is the name of the policy, "" when it has none.
	Document string `json:"document,omitempty"`
	// Field is the path of the field within its document, "spec.rules[2].from[0].ips[1]".
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

// String returns "file:line:column: field: message", without what is not known.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File + ":")
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", p.Line, p.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	} else if p.Document != "" {
		b.WriteString(p.Document + ": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Error returns the problems, one a line.
func (e *ParseError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.String())
	}
	return b.String()
}

const (
	maxProblems = 50
	maxText     = 512 // bytes of a field or message in a problem
)

// problems collects what is wrong with one input.
type problems struct {
	file string
	list []Problem
}

func (ps *problems) add(p Problem) {
	p.File, p.Field, p.Message = ps.file, clip(p.Field, maxText), clip(p.Message, maxText)
	p.Document = clip(p.Document, maxText)
	if len(ps.list) < maxProblems {
		ps.list = append(ps.list, p)
	}
}

func (ps *problems) err() error {
	if len(ps.list) == 0 {
		return nil
	}
	return &ParseError{ps.list}
}

// clip shortens s to at most n bytes, at a character's end.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
