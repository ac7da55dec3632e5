package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/intramesh/mesh/internal/wire"
)

// readJSON reads the JSON values of data, one after the other, as positioned trees. It
// keeps duplicate keys for the decoder to refuse.
func readJSON(file string, data []byte) ([]*Node, error) {
	r := jsonReader{data: data, line: 1, dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	var nodes []*Node
	var err error
	switch {
	case len(data) > wire.MaxBundleBytes:
		err = fmt.Errorf("input is larger than %d bytes", wire.MaxBundleBytes)
	case !utf8.Valid(data):
		r.locate(firstInvalid(data))
		err = errors.New("input is not valid UTF-8")
	default:
		nodes, err = r.values()
	}
	if err == nil {
		return nodes, nil
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		r.locate(len(data))
		err = errors.New("input ends in the middle of a value")
	}
	return nil, &ParseError{[]Problem{{File: file, Line: r.line, Column: r.column(), Message: err.Error()}}}
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

type jsonReader struct {
	data []byte
	dec  *json.Decoder
	// off is a position that was reached; line and lineStart belong to it.
	off, line, lineStart int
}

func (r *jsonReader) column() int { return r.off - r.lineStart + 1 }

// locate moves the position to off. It only goes back for an error.
func (r *jsonReader) locate(off int) {
	off = max(0, min(off, len(r.data)))
	if off < r.off {
		r.off, r.line, r.lineStart = 0, 1, 0
	}
	for ; r.off < off; r.off++ {
		if r.data[r.off] == '\n' {
			r.line, r.lineStart = r.line+1, r.off+1
		}
	}
}

// token returns the next token and moves the position to its start, or to the start of
// what is none. (The offset in a json.SyntaxError does not count what Token consumed.)
func (r *jsonReader) token() (json.Token, error) {
	start := int(r.dec.InputOffset())
	for start < len(r.data) && bytes.IndexByte([]byte(" \t\r\n,:"), r.data[start]) >= 0 {
		start++
	}
	r.locate(start)
	return r.dec.Token()
}

func (r *jsonReader) values() ([]*Node, error) {
	var nodes []*Node
	for {
		t, err := r.token()
		if errors.Is(err, io.EOF) {
			return nodes, nil
		}
		if err != nil {
			return nil, err
		}
		n, err := r.value(t, maxDepth)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
}

// value reads the value that starts with t, at the current position.
func (r *jsonReader) value(t json.Token, depth int) (*Node, error) {
	n := &Node{Line: r.line, Column: r.column()}
	switch t := t.(type) {
	case nil:
	case bool:
		n.Kind, n.Value = NodeBool, fmt.Sprint(t)
	case json.Number:
		n.Kind, n.Value = NodeNumber, t.String()
	case string:
		n.Kind, n.Value = NodeString, t
	case json.Delim:
		if depth == 0 {
			return nil, fmt.Errorf("values are nested deeper than %d", maxDepth)
		}
		n.Kind = NodeList
		if t == '{' {
			n.Kind = NodeObject
		}
		return n, r.children(n, depth-1)
	}
	return n, nil
}

func (r *jsonReader) children(n *Node, depth int) error {
	for {
		t, err := r.token()
		if err != nil {
			return err
		}
		if d, ok := t.(json.Delim); ok && (d == ']' || d == '}') {
			return nil
		}
		m := Member{Line: r.line, Column: r.column()}
		if n.Kind == NodeObject {
			m.Key, _ = t.(string) // Token returns nothing else here
			if t, err = r.token(); err != nil {
				return err
			}
		}
		if m.Value, err = r.value(t, depth); err != nil {
			return err
		}
		if n.Kind == NodeObject {
			n.Members = append(n.Members, m)
		} else {
			n.Items = append(n.Items, m.Value)
		}
	}
}
