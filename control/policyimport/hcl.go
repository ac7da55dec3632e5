package policyimport

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hashicorp/hcl/hcl/ast"
	"github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/token"
	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

const maxNesting = 32

// readConsul reads HCL as Consul does, and YAML or JSON where the file starts so.
func readConsul(name string, data []byte) ([]*policy.Node, error) {
	text := bytes.TrimLeft(data, " \t\r\n")
	if len(text) > 0 && (text[0] == '{' || text[0] == '[') || isKubernetes(text) {
		return rulesfile.Nodes(name, data)
	}
	if len(data) > wire.MaxBundleBytes {
		return nil, refuse(Place{File: name}, "file is larger than %d bytes", wire.MaxBundleBytes)
	}
	if tooDeep(data) {
		return nil, refuse(Place{File: name}, "values are nested too deep")
	}
	f, err := parser.ParseDontErrorOnDuplicateKeys(data)
	if e, ok := errors.AsType[*parser.PosError](err); ok {
		return nil, refuse(Place{name, e.Pos.Line, e.Pos.Column}, "%v", e.Err)
	}
	if err != nil {
		return nil, refuse(Place{File: name}, "%v", err)
	}
	c := hclConverter{name}
	n, err := c.node(f.Node, maxNesting)
	if err != nil {
		return nil, err
	}
	n.Line, n.Column = 1, 1
	return []*policy.Node{n}, nil
}

// tooDeep bounds the recursion of the parser, which does not. Brackets in text count too; they come in pairs mostly.
func tooDeep(data []byte) bool {
	depth := 0
	for _, c := range data {
		switch c {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if depth > 100*maxNesting {
			return true
		}
	}
	return false
}

// isKubernetes reports whether a line of the text starts an object of Kubernetes, which HCL does not write so.
func isKubernetes(text []byte) bool {
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte("apiVersion:")) {
			return true
		}
	}
	return false
}

type hclConverter struct{ file string }

func (c hclConverter) place(p token.Pos) Place { return Place{c.file, p.Line, p.Column} }

func (c hclConverter) node(n ast.Node, depth int) (*policy.Node, error) {
	out := &policy.Node{Line: n.Pos().Line, Column: n.Pos().Column}
	if depth == 0 {
		return nil, refuse(c.place(n.Pos()), "values are nested deeper than %d", maxNesting)
	}
	switch n := n.(type) {
	case *ast.LiteralType:
		return out, c.literal(n.Token, out)
	case *ast.ListType:
		out.Kind = policy.NodeList
		for _, item := range n.List {
			child, err := c.node(item, depth-1)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, child)
		}
	case *ast.ObjectType:
		return out, c.members(n.List, out, depth)
	case *ast.ObjectList:
		return out, c.members(n, out, depth)
	default:
		return nil, refuse(c.place(n.Pos()), "not a value")
	}
	return out, nil
}

func (c hclConverter) literal(t token.Token, out *policy.Node) error {
	switch t.Type {
	case token.STRING, token.HEREDOC, token.IDENT:
		out.Kind = policy.NodeString
		s, ok := t.Value().(string)
		if !ok {
			return refuse(c.place(t.Pos), "not a value")
		}
		out.Value = s
	case token.NUMBER, token.FLOAT:
		out.Kind, out.Value = policy.NodeNumber, t.Text
	case token.BOOL:
		out.Kind, out.Value = policy.NodeBool, t.Text
	default:
		return refuse(c.place(t.Pos), "not a value")
	}
	return nil
}

// members converts the fields of an object. Blocks of the same name are a list; values are not, and stay for
// the check for duplicates.
func (c hclConverter) members(list *ast.ObjectList, out *policy.Node, depth int) error {
	out.Kind = policy.NodeObject
	blocks := make(map[string]*policy.Node)
	for _, item := range list.Items {
		if len(item.Keys) != 1 {
			return refuse(c.place(item.Pos()), "want one name before a value, found %d", len(item.Keys))
		}
		key := fmt.Sprint(item.Keys[0].Token.Value())
		v, err := c.node(item.Val, depth-1)
		if err != nil {
			return err
		}
		if !item.Assign.IsValid() {
			if b := blocks[folded(key, true)]; b != nil {
				b.Items = append(b.Items, v)
				continue
			}
			v = &policy.Node{Kind: policy.NodeList, Items: []*policy.Node{v}, Line: v.Line, Column: v.Column}
			blocks[folded(key, true)] = v
		}
		out.Members = append(out.Members, policy.Member{Key: key, Line: item.Pos().Line, Column: item.Pos().Column, Value: v})
	}
	return nil
}
