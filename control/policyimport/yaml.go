package policyimport

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v4"
)

// WriteYAML writes the documents, each after where it comes from and the notes about it. The other notes come first.
func (r *Result) WriteYAML(w io.Writer) error {
	var b bytes.Buffer
	for _, n := range r.Notes {
		if !r.has(n.Document) {
			comment(&b, n)
		}
	}
	for i, d := range r.Documents {
		if b.Len() > 0 || i > 0 {
			b.WriteString("---\n")
		}
		fmt.Fprintf(&b, "# from %s\n", line(d.Origin.String()))
		for _, n := range r.Notes {
			if n.Document == d.Metadata.Name {
				comment(&b, n)
			}
		}
		data, err := json.Marshal(d.Document)
		if err != nil {
			return fmt.Errorf("policyimport: %w", err)
		}
		out, err := YAML(data)
		if err != nil {
			return fmt.Errorf("policyimport: %w", err)
		}
		b.Write(out)
	}
	_, err := b.WriteTo(w)
	return err
}

func (r *Result) has(document string) bool {
	for _, d := range r.Documents {
		if d.Metadata.Name == document {
			return true
		}
	}
	return false
}

func comment(b *bytes.Buffer, n Note) {
	fmt.Fprintf(b, "# not carried over: %s\n", line(n.String()))
}

// line keeps text on one line, so that it can't get out of a comment.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, s)
}

// YAML writes JSON as people write YAML, in the same order.
func YAML(data []byte) ([]byte, error) {
	var n yaml.Node
	if err := yaml.Load(data, &n); err != nil {
		return nil, err
	}
	plain(&n)
	return yaml.Dump(&n, yaml.WithIndent(2))
}

// plain drops JSON's braces and quotes; the writer puts back the quotes that are needed.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}
