package policytest

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Parse reads a file of cases, YAML or JSON: a list of objects, or several. The trust domain is that of callers
// which are given by their service. Anything that is not understood refuses the file with a [*policy.ParseError].
//
// The fields of a case are
//
//	name     what is said when it fails
//	from     the caller: a service, or a SPIFFE ID; without it, one whose identity is not known
//	ip       its address
//	to       SERVICE or SERVICE:PORT
//	method, path, host, headers   an HTTP request; headers are text or lists of it; host is SERVICE when left out
//	grpc     a gRPC call, pay.v1.Payments/Charge, with headers; with neither it is a connection
//	claims   those of its token, which is taken as valid; text, numbers, booleans, lists and objects
//	expect   allow or deny
//	policy   the name of the policy that must have decided
func Parse(name string, data []byte, td spiffeid.TrustDomain) ([]Case, error) {
	nodes, err := rulesfile.Nodes(name, data)
	if err != nil {
		return nil, err
	}
	p := &parser{file: name, trustDomain: td}
	var cases []Case
	for _, n := range nodes {
		items := []*policy.Node{n}
		if n.Kind == policy.NodeList {
			items = n.Items
		}
		for _, item := range items {
			cases = append(cases, p.parse(item))
		}
	}
	if len(p.problems) > 0 {
		return nil, &policy.ParseError{Problems: p.problems}
	}
	return cases, nil
}

type parser struct {
	file        string
	trustDomain spiffeid.TrustDomain
	problems    []policy.Problem
}

const maxProblems = 50

func (p *parser) fail(n *policy.Node, field, format string, args ...any) {
	if len(p.problems) < maxProblems {
		p.problems = append(p.problems, policy.Problem{File: p.file, Line: n.Line, Column: n.Column, Field: field, Message: fmt.Sprintf(format, args...)})
	}
}

func fieldNames() []string {
	return []string{"name", "from", "ip", "to", "method", "path", "host", "headers", "grpc", "claims", "expect", "policy"}
}

func (p *parser) parse(n *policy.Node) Case {
	c := Case{File: p.file, Line: n.Line, Column: n.Column}
	if n.Kind != policy.NodeObject {
		p.fail(n, "", "want a case: an object with the fields %s", strings.Join(fieldNames(), ", "))
		return c
	}
	fields := p.members(n, "", fieldNames())
	text := func(field string) string { return p.text(fields[field], field) }
	c.Name, c.Policy = text("name"), text("policy")
	r := &c.Request
	r.Method, r.Path, r.Host = text("method"), text("path"), text("host")
	r.GRPCMethod = strings.TrimPrefix(text("grpc"), "/")
	to, from, ip := text("to"), text("from"), text("ip")
	if c.Name == "" {
		c.Name = fmt.Sprintf("%s to %s", from, to)
	}
	r.Destination, r.Port, _ = strings.Cut(to, ":")
	if !p.isService(r.Destination) {
		p.fail(at(fields["to"], n), "to", "%q is no service's name", r.Destination)
	}
	var err error
	if from != "" {
		if r.Source, err = Caller(p.trustDomain, from); err != nil {
			p.fail(fields["from"], "from", "%v", err)
		}
	}
	if ip != "" {
		if r.SourceAddr, err = netip.ParseAddr(ip); err != nil {
			p.fail(fields["ip"], "ip", "%q is not an IP address", ip)
		}
	}
	switch expect := text("expect"); expect {
	case "allow":
		c.Expect = policy.Allow
	case "deny":
	default:
		p.fail(at(fields["expect"], n), "expect", "want allow or deny, found %q", expect)
	}
	p.layer(r, n, fields)
	return c
}

// isService reports whether a rule could be for the service.
func (p *parser) isService(name string) bool {
	_, err := policy.Static(p.trustDomain, policy.Document{
		APIVersion: policy.APIVersion, Kind: policy.Kind, Metadata: policy.Metadata{Name: "any"},
		Spec: policy.Spec{Service: name, Action: policy.ActionAllow},
	})
	return err == nil && !strings.Contains(name, "*")
}

// Caller returns the identity of a service of the trust domain, or the SPIFFE ID that is given.
func Caller(td spiffeid.TrustDomain, from string) (spiffeid.ID, error) {
	if strings.Contains(from, "://") {
		return spiffeid.FromString(from)
	}
	return spiffeid.FromPath(td, "/"+from)
}

func at(n, or *policy.Node) *policy.Node {
	if n == nil {
		return or
	}
	return n
}

// layer finds out what kind of request it is.
func (p *parser) layer(r *policy.Request, n *policy.Node, fields map[string]*policy.Node) {
	isHTTP := r.Method != "" || r.Path != "" || r.Host != ""
	switch {
	case isHTTP && r.GRPCMethod != "":
		p.fail(n, "", "method, path and host are for HTTP, grpc is for gRPC: give one of them")
	case isHTTP:
		r.Layer = policy.LayerHTTP
		if r.Method == "" || r.Path == "" {
			p.fail(n, "", "an HTTP request has a method and a path")
		} else if !canonical(r.Path) {
			p.fail(fields["path"], "path", "%q: no rule ever sees such a path: it is decoded and cleaned, and has no query", r.Path)
		}
		if r.Host == "" {
			r.Host = r.Destination
		}
	case r.GRPCMethod != "":
		r.Layer = policy.LayerGRPC
	case fields["headers"] != nil, fields["claims"] != nil:
		p.fail(n, "", "headers and claims are for an HTTP request (method and path) or a gRPC call (grpc)")
		return
	default:
		return
	}
	r.Header = http.Header{}
	if h := fields["headers"]; h != nil {
		for key, v := range p.members(h, "headers", nil) {
			p.header(r.Header, key, v)
		}
	}
	if claims := fields["claims"]; claims != nil && p.want(claims, policy.NodeObject, "claims") {
		r.Claims, _ = p.value(claims).(map[string]any)
	}
}

func canonical(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.ContainsAny(path, "?#;\\%") && !strings.Contains(path, "//") &&
		!strings.Contains(path+"/", "/./") && !strings.Contains(path+"/", "/../")
}

func (p *parser) header(h http.Header, key string, v *policy.Node) {
	items := []*policy.Node{v}
	if v.Kind == policy.NodeList {
		items = v.Items
	}
	for _, item := range items {
		h.Add(key, p.text(item, "headers."+key))
	}
}

// members returns the fields of an object. known are those that it may have, nil for any.
func (p *parser) members(n *policy.Node, field string, known []string) map[string]*policy.Node {
	out := make(map[string]*policy.Node)
	if !p.want(n, policy.NodeObject, field) {
		return out
	}
	for _, m := range n.Members {
		key := &policy.Node{Line: m.Line, Column: m.Column}
		switch {
		case out[m.Key] != nil:
			p.fail(key, m.Key, "the field is there twice, first on line %d", out[m.Key].Line)
		case known != nil && !slices.Contains(known, m.Key):
			p.fail(key, m.Key, "unknown field; the fields here are %s", strings.Join(known, ", "))
		default:
			out[m.Key] = m.Value
		}
	}
	return out
}

func (p *parser) want(n *policy.Node, kind policy.NodeKind, field string) bool {
	if n.Kind != kind {
		p.fail(n, field, "want %s, found %s", kind, n.Kind)
	}
	return n.Kind == kind
}

// text returns a string, or a number as it is written.
func (p *parser) text(n *policy.Node, field string) string {
	if n == nil || n.Kind != policy.NodeNumber && !p.want(n, policy.NodeString, field) {
		return ""
	}
	return n.Value
}
