package policytest

import (
	"encoding/json"

	"github.com/intramesh/mesh/policy"
)

// value converts a tree to what the claims of a token are.
func (p *parser) value(n *policy.Node) any {
	switch n.Kind {
	case policy.NodeBool:
		return n.Value == "true"
	case policy.NodeNumber:
		return json.Number(n.Value)
	case policy.NodeString:
		return n.Value
	case policy.NodeList:
		list := make([]any, len(n.Items))
		for i, item := range n.Items {
			list[i] = p.value(item)
		}
		return list
	case policy.NodeObject:
		m := make(map[string]any)
		for key, v := range p.members(n, "claims", nil) {
			m[key] = p.value(v)
		}
		return m
	}
	return nil
}
