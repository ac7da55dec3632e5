package rulesfile

import (
	"strconv"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// A Document is one of a file, and knows its place there.
type Document struct {
	policy.Document
	File string
	node *policy.Node
}

// Load is [Parse] for who wants to know where things stand.
func Load(name string, data []byte) ([]Document, error) {
	nodes, err := Nodes(name, data)
	if err != nil {
		return nil, err
	}
	docs, err := policy.Decode(name, nodes)
	if err != nil {
		return nil, err
	}
	out := make([]Document, 0, len(docs))
	for _, n := range nodes {
		items := []*policy.Node{n}
		if n.Kind == policy.NodeList {
			items = n.Items
		}
		for _, item := range items {
			out = append(out, Document{docs[len(out)], name, item})
		}
	}
	return out, nil
}

// Place returns the line and column of a field, written as in a [policy.Problem]: "spec.rules[2].from[0]". It
// is that of what is closest around a field that is not there, and 0 for a document that was not loaded.
func (d *Document) Place(field string) (line, column int) {
	n := d.node
	if n == nil {
		return 0, 0
	}
	for step := range strings.FieldsFuncSeq(field, func(r rune) bool { return r == '.' || r == '[' }) {
		next := child(n, step)
		if next == nil {
			break
		}
		n = next
	}
	return n.Line, n.Column
}

func child(n *policy.Node, step string) *policy.Node {
	if index, ok := strings.CutSuffix(step, "]"); ok {
		if i, err := strconv.Atoi(index); err == nil && i >= 0 && i < len(n.Items) {
			return n.Items[i]
		}
		return nil
	}
	for _, m := range n.Members {
		if m.Key == step {
			return m.Value
		}
	}
	return nil
}
