// Package strictjson reads JSON (RFC 8259): as trees that know their places, or into Go values. It takes nothing that could be understood in
// two ways, such as an object that has a name twice, and is 50 KB of a program less than encoding/json's decoder.
package strictjson

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A Kind says what a [Node] is.
type Kind uint8

// The kinds. The zero Kind is null.
const (
	Null Kind = iota
	Bool
	Number
	String
	List
	Object
)

// A Node is a value. Text is that of a scalar: of a string its content, of the others as it was written.
type Node struct {
	Kind    Kind
	Text    string
	Offset  int      // of its first byte
	Items   []*Node  // of a list
	Members []Member // of an object, in order; names may be there twice
}

// A Member is a field of an object. Offset is that of its name.
type Member struct {
	Name   string
	Offset int
	Value  *Node
}

// Field returns the value of an object's first member of that name, nil when there is none, or n is no object.
func (n *Node) Field(name string) *Node {
	if n != nil {
		for _, m := range n.Members {
			if m.Name == name {
				return m.Value
			}
		}
	}
	return nil
}

// ErrDepth is for values that are nested deeper than allowed.
var ErrDepth = errors.New("values are nested too deep")

// Next reads the value at off, and returns the offset behind it and the white space that follows. Where nothing but white space is left it returns nil and [io.EOF]; a
// value that doesn't end is [io.ErrUnexpectedEOF]. The offset that comes with an error is where it is. The input must be UTF-8.
func Next(data []byte, off, depth int) (n *Node, end int, err error) {
	p := parser{data, off}
	p.space()
	if p.off == len(data) {
		return nil, p.off, io.EOF
	}
	n, err = p.value(depth)
	if err == nil {
		p.space()
	}
	return n, p.off, err
}

type parser struct {
	data []byte
	off  int
}

// peek returns the next byte, 0 at the end.
func (p *parser) peek() byte {
	if p.off < len(p.data) {
		return p.data[p.off]
	}
	return 0
}

func (p *parser) space() {
	for c := p.peek(); c == ' ' || c == '\t' || c == '\r' || c == '\n'; c = p.peek() {
		p.off++
	}
}

// wants is the error for something else than what is due.
func (p *parser) wants(what string) error {
	if p.off >= len(p.data) {
		return io.ErrUnexpectedEOF
	}
	r, _ := utf8.DecodeRune(p.data[p.off:])
	return fmt.Errorf("invalid character %q: want %s", r, what)
}

func (p *parser) value(depth int) (*Node, error) {
	n := &Node{Offset: p.off}
	var err error
	switch c := p.peek(); c {
	case '{', '[':
		if depth == 0 {
			return nil, ErrDepth
		}
		p.off++
		if n.Kind = List; c == '{' {
			n.Kind = Object
		}
		err = p.children(n, c+2, depth-1) // the brackets of ASCII
	case '"':
		n.Kind = String
		n.Text, err = p.string()
	case 't':
		n.Kind, n.Text, err = Bool, "true", p.word("true")
	case 'f':
		n.Kind, n.Text, err = Bool, "false", p.word("false")
	case 'n':
		err = p.word("null")
	default:
		n.Kind = Number
		n.Text, err = p.number()
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (p *parser) children(n *Node, end byte, depth int) error {
	p.space()
	for first := true; ; first = false {
		if first && p.peek() == end {
			p.off++
			return nil
		}
		m := Member{Offset: p.off}
		var err error
		if n.Kind == Object {
			if p.peek() != '"' {
				return p.wants("a field's name in quotes")
			}
			if m.Name, err = p.string(); err != nil {
				return err
			}
			if p.space(); p.peek() != ':' {
				return p.wants("a colon after the field's name")
			}
			p.off++
			p.space()
		}
		if m.Value, err = p.value(depth); err != nil {
			return err
		}
		if n.Kind == Object {
			n.Members = append(n.Members, m)
		} else {
			n.Items = append(n.Items, m.Value)
		}
		p.space()
		switch p.peek() {
		case end:
			p.off++
			return nil
		case ',':
			p.off++
			p.space()
		default:
			return p.wants("a comma or " + strconv.QuoteRune(rune(end)))
		}
	}
}

func (p *parser) word(w string) error {
	rest := p.data[p.off:]
	switch {
	case bytes.HasPrefix(rest, []byte(w)):
		p.off += len(w)
		return nil
	case len(rest) < len(w) && strings.HasPrefix(w, string(rest)):
		p.off = len(p.data)
	}
	return p.wants(w)
}

func (p *parser) number() (string, error) {
	start := p.off
	if p.peek() == '-' {
		p.off++
	}
	if p.peek() == '0' {
		p.off++
	} else if !p.digits() {
		if p.off == start {
			return "", p.wants("a value")
		}
		return "", p.wants("a digit")
	}
	if p.peek() == '.' {
		if p.off++; !p.digits() {
			return "", p.wants("a digit")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.off++
		if c := p.peek(); c == '+' || c == '-' {
			p.off++
		}
		if !p.digits() {
			return "", p.wants("a digit")
		}
	}
	return string(p.data[start:p.off]), nil
}

// digits reports whether there were any.
func (p *parser) digits() bool {
	start := p.off
	for c := p.peek(); '0' <= c && c <= '9'; c = p.peek() {
		p.off++
	}
	return p.off > start
}

func (p *parser) string() (string, error) {
	p.off++
	start := p.off
	for c := p.peek(); c != '"' && c != '\\' && c >= ' '; c = p.peek() {
		p.off++
	}
	if p.peek() == '"' { // as most are
		p.off++
		return string(p.data[start : p.off-1]), nil
	}
	b := append([]byte(nil), p.data[start:p.off]...)
	for {
		switch c := p.peek(); {
		case c == '"':
			p.off++
			return string(b), nil
		case c < ' ':
			return "", p.wants("a string's end before that, or an escape")
		case c == '\\':
			p.off++
			var err error
			if b, err = p.escape(b); err != nil {
				return "", err
			}
		default:
			b = append(b, c)
			p.off++
		}
	}
}

// escape appends what the escape stands for whose backslash was read.
func (p *parser) escape(b []byte) ([]byte, error) {
	c := p.peek()
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		p.off++
		r, err := p.hex()
		if err != nil {
			return b, err
		}
		if utf16.IsSurrogate(r) { // half a pair alone stands for nothing
			half := r
			r = utf8.RuneError
			if was := p.off; bytes.HasPrefix(p.data[was:], []byte(`\u`)) {
				p.off += 2
				second, err := p.hex()
				if err != nil {
					return b, err
				}
				if r = utf16.DecodeRune(half, second); r == utf8.RuneError {
					p.off = was
				}
			}
		}
		return utf8.AppendRune(b, r), nil
	default:
		return b, p.wants("an escape")
	}
	p.off++
	return append(b, c), nil
}

func (p *parser) hex() (rune, error) {
	if len(p.data)-p.off < 4 {
		p.off = len(p.data)
		return 0, io.ErrUnexpectedEOF
	}
	n, err := strconv.ParseUint(string(p.data[p.off:p.off+4]), 16, 16)
	if err != nil {
		return 0, p.wants("four hexadecimal digits")
	}
	p.off += 4
	return rune(n), nil
}
