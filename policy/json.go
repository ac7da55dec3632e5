package policy

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/intramesh/mesh/internal/strictjson"
	"github.com/intramesh/mesh/internal/wire"
)

// readJSON reads the JSON values of data, one after the other, as positioned trees. It
// keeps duplicate keys for the decoder to refuse.
func readJSON(file string, data []byte) ([]*Node, error) {
	p := places{data: data, line: 1}
	var nodes []*Node
	var err error
	at := 0
	switch {
	case len(data) > wire.MaxBundleBytes:
		err = fmt.Errorf("input is larger than %d bytes", wire.MaxBundleBytes)
	case !utf8.Valid(data):
		at, err = firstInvalid(data), errors.New("input is not valid UTF-8")
	default:
		for err == nil {
			var n *strictjson.Node
			if n, at, err = strictjson.Next(data, at, maxDepth); err == nil {
				nodes = append(nodes, p.node(n))
			}
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nodes, nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("input ends in the middle of a value")
	case errors.Is(err, strictjson.ErrDepth):
		err = fmt.Errorf("values are nested deeper than %d", maxDepth)
	}
	line, column := p.of(at)
	return nil, &ParseError{[]Problem{{File: file, Line: line, Column: column, Message: err.Error()}}}
}

func firstInvalid(data []byte) int {
	i := 0
	for i < len(data) {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n <= 1 {
			break
		}
		i += n
	}
	return i
}

// places finds lines and columns. It is fast for offsets that grow.
type places struct {
	data []byte
	// off is a position that was reached; line and lineStart belong to it.
	off, line, lineStart int
}

// of returns the line and the column of an offset, from 1.
func (p *places) of(off int) (line, column int) {
	if off < p.off {
		p.off, p.line, p.lineStart = 0, 1, 0
	}
	for ; p.off < off; p.off++ {
		if p.data[p.off] == '\n' {
			p.line, p.lineStart = p.line+1, p.off+1
		}
	}
	return p.line, off - p.lineStart + 1
}

// node makes a Node of a tree. (The kinds are the same.)
func (p *places) node(n *strictjson.Node) *Node {
	to := &Node{Kind: NodeKind(n.Kind), Value: n.Text}
	to.Line, to.Column = p.of(n.Offset)
	for _, item := range n.Items {
		to.Items = append(to.Items, p.node(item))
	}
	for _, m := range n.Members {
		field := Member{Key: m.Name}
		field.Line, field.Column = p.of(m.Offset)
		field.Value = p.node(m.Value)
		to.Members = append(to.Members, field)
	}
	return to
}
