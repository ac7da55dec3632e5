// Package rulesfile reads authorization documents from YAML and JSON files.
package rulesfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
	"go.yaml.in/yaml/v4"
)

// Parse reads the documents of a file, YAML or JSON as it finds them; the name is used in
// errors. An empty YAML document ("---" at the end) is passed over. Anything else that is not
// understood refuses the whole file with a [*policy.ParseError], which tells line and column.
//
// Of YAML, aliases, tags and merge keys are refused: a rule reads as it stands.
func Parse(name string, data []byte) ([]policy.Document, error) {
	nodes, err := Nodes(name, data)
	if err != nil {
		return nil, err
	}
	return policy.Decode(name, nodes)
}

// Nodes reads a file as [Parse] does, whatever it is about: one tree for each document of YAML or value of JSON, at
// least one. It does not look for duplicate keys.
func Nodes(name string, data []byte) ([]*policy.Node, error) {
	var nodes []*policy.Node
	var err error
	switch {
	case len(data) > wire.MaxBundleBytes:
		return nil, problem(name, 0, 0, fmt.Sprintf("file is larger than %d bytes", wire.MaxBundleBytes))
	case isJSON(data):
		nodes, err = policy.ReadJSON(name, data)
	default:
		nodes, err = converter{file: name}.documents(data)
	}
	if err == nil && len(nodes) == 0 {
		err = problem(name, 1, 1, "no documents in it")
	}
	return nodes, err
}

// isJSON tells JSON from a flow collection of YAML that merely starts like it.
func isJSON(data []byte) bool {
	d := json.NewDecoder(bytes.NewReader(data))
	first, err := d.Token()
	if err != nil || first != json.Delim('{') && first != json.Delim('[') {
		return false
	}
	for range 2 { // "[{" tells nothing yet
		if _, err := d.Token(); err != nil && !errors.Is(err, io.EOF) {
			return false
		}
	}
	return true
}

func problem(file string, line, column int, msg string) error {
	return &policy.ParseError{Problems: []policy.Problem{{File: file, Line: line, Column: column, Message: msg}}}
}

type converter struct{ file string }

func (c converter) documents(data []byte) ([]*policy.Node, error) {
	loader, err := yaml.NewLoader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("rulesfile: %w", err)
	}
	var nodes []*policy.Node
	for {
		var doc yaml.Node
		switch err := loader.Load(&doc); {
		case errors.Is(err, io.EOF):
			return nodes, nil
		case err != nil:
			return nil, c.loadError(err)
		}
		root := &doc
		if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
			root = doc.Content[0]
		}
		if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" && root.Value == "" {
			continue
		}
		n, err := c.node(root)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
}

func (c converter) loadError(err error) error {
	if e, ok := errors.AsType[*yaml.LoadError](err); ok {
		msg := e.Message
		if e.ContextMsg != "" {
			msg = e.ContextMsg + ": " + msg
		}
		return problem(c.file, e.Mark.Line, e.Mark.Column, msg)
	}
	return problem(c.file, 0, 0, err.Error())
}

// node converts a tree; the loader has bounded its depth.
func (c converter) node(y *yaml.Node) (*policy.Node, error) {
	refuse := func(format string, args ...any) (*policy.Node, error) {
		return nil, problem(c.file, y.Line, y.Column, fmt.Sprintf(format, args...))
	}
	if y.Style&yaml.TaggedStyle != 0 {
		return refuse("tags (%s) are not accepted", y.Tag)
	}
	n := &policy.Node{Value: y.Value, Line: y.Line, Column: y.Column}
	switch y.Kind {
	case yaml.AliasNode:
		return refuse("aliases (*%s) are not accepted: write the value out", y.Value)
	case yaml.SequenceNode:
		n.Kind = policy.NodeList
		for _, item := range y.Content {
			m, err := c.node(item)
			if err != nil {
				return nil, err
			}
			n.Items = append(n.Items, m)
		}
	case yaml.MappingNode:
		n.Kind = policy.NodeObject
		for i := 0; i+1 < len(y.Content); i += 2 {
			m, err := c.member(y.Content[i], y.Content[i+1])
			if err != nil {
				return nil, err
			}
			n.Members = append(n.Members, m)
		}
	case yaml.ScalarNode:
		kind, ok := scalarKinds(y.ShortTag())
		if !ok {
			return refuse("a value of type %s is not accepted", y.ShortTag())
		}
		n.Kind = kind
	default:
		return refuse("not a value")
	}
	return n, nil
}

func (c converter) member(key, value *yaml.Node) (policy.Member, error) {
	if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" || key.Style&yaml.TaggedStyle != 0 {
		return policy.Member{}, problem(c.file, key.Line, key.Column, fmt.Sprintf("key %q: want a plain name", key.Value))
	}
	v, err := c.node(value)
	if err != nil {
		return policy.Member{}, err
	}
	return policy.Member{Key: key.Value, Line: key.Line, Column: key.Column, Value: v}, nil
}

// scalarKinds maps YAML's types. A date is left a string: no field holds one.
func scalarKinds(tag string) (policy.NodeKind, bool) {
	switch tag {
	case "!!str", "!!timestamp":
		return policy.NodeString, true
	case "!!int", "!!float":
		return policy.NodeNumber, true
	case "!!bool":
		return policy.NodeBool, true
	case "!!null":
		return policy.NodeNull, true
	}
	return 0, false
}
