package policyimport

import (
	"fmt"
	"slices"
	"strings"

	"github.com/intramesh/mesh/policy"
)

// An object gives access to the fields of a node, and knows which were asked for.
type object struct {
	node  *policy.Node
	file  string
	fold  bool // names are compared without case and "_", as Consul does
	asked map[string]bool
}

func newObject(file string, n *policy.Node, fold bool) object {
	return object{node: n, file: file, fold: fold, asked: make(map[string]bool)}
}

func (o object) isObject() bool { return o.node != nil && o.node.Kind == policy.NodeObject }

func folded(key string, fold bool) string {
	if fold {
		return strings.ReplaceAll(strings.ToLower(key), "_", "")
	}
	return key
}

// get returns a field, nil when it is not there or null.
func (o object) get(name string) *policy.Node {
	if o.node == nil {
		return nil
	}
	name = folded(name, o.fold)
	o.asked[name] = true
	for _, m := range o.node.Members {
		if folded(m.Key, o.fold) == name && m.Value != nil && m.Value.Kind != policy.NodeNull {
			return m.Value
		}
	}
	return nil
}

// object returns a field that is one. A list with one object counts as it: HCL writes blocks so.
func (o object) object(name string) object {
	n := o.get(name)
	if o.fold && n != nil && n.Kind == policy.NodeList && len(n.Items) == 1 {
		n = n.Items[0]
	}
	return newObject(o.file, n, o.fold)
}

// list returns the elements of a field; what is no list is a list of one where HCL wrote it.
func (o object) list(name string) []*policy.Node {
	n := o.get(name)
	switch {
	case n == nil:
		return nil
	case n.Kind == policy.NodeList:
		return n.Items
	}
	return []*policy.Node{n}
}

// text returns a scalar's text, "" when it is not there.
func (o object) text(name string) string {
	n := o.get(name)
	if n == nil {
		return ""
	}
	return n.Value
}

// rest returns the fields that nobody asked for and that say something.
func (o object) rest() []policy.Member {
	if o.node == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(o.node.Members), func(m policy.Member) bool {
		return o.asked[folded(m.Key, o.fold)]
	})
}

func (o object) place() Place { return place(o.file, o.node) }

func place(file string, n *policy.Node) Place {
	if n == nil {
		return Place{File: file}
	}
	return Place{file, n.Line, n.Column}
}

// isText reports whether the node is a scalar that the source reads as text.
func isText(n *policy.Node) bool {
	return n != nil && (n.Kind == policy.NodeString || n.Kind == policy.NodeNumber)
}

func refuse(p Place, format string, args ...any) error {
	return &policy.ParseError{Problems: []policy.Problem{{
		File: p.File, Line: p.Line, Column: p.Column, Message: fmt.Sprintf(format, args...),
	}}}
}

func checkDuplicates(file string, n *policy.Node, fold bool) error {
	if n == nil {
		return nil
	}
	seen := make(map[string]int)
	for _, m := range n.Members {
		key := folded(m.Key, fold)
		if line, dup := seen[key]; dup {
			return refuse(Place{file, m.Line, m.Column}, "%s: the field is there twice, first on line %d", m.Key, line)
		}
		seen[key] = m.Line
		if err := checkDuplicates(file, m.Value, fold); err != nil {
			return err
		}
	}
	for _, item := range n.Items {
		if err := checkDuplicates(file, item, fold); err != nil {
			return err
		}
	}
	return nil
}
