package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Parse reads the documents of a JSON file: one after the other, or as arrays. The name is
// the file's, for errors. Any unknown field, duplicate key or name, or value that does not parse
// refuses the whole input with a [*ParseError].
func Parse(name string, data []byte) ([]Document, error) {
	nodes, err := readJSON(name, data)
	if err != nil {
		return nil, err
	}
	return Decode(name, nodes)
}

// Decode makes documents of trees that were read from some format: each is a document or a
// list of documents. It is as strict as [Parse]. A nil node counts as null.
func Decode(name string, nodes []*Node) ([]Document, error) {
	ps := &problems{file: name}
	var flat []*Node
	for _, n := range nodes {
		if n != nil && n.Kind == NodeList {
			flat = append(flat, n.Items...)
		} else {
			flat = append(flat, n)
		}
	}
	docs := decodeDocuments(ps, flat, "")
	if err := ps.err(); err != nil {
		return nil, err
	}
	return docs, nil
}

// decodeDocuments decodes and checks a list of documents that is at the field given.
func decodeDocuments(ps *problems, nodes []*Node, field string) []Document {
	if len(nodes) > MaxDocuments {
		ps.add(Problem{Field: field, Message: fmt.Sprintf("%d documents; at most %d are accepted", len(nodes), MaxDocuments)})
		return nil
	}
	docs := make([]Document, len(nodes))
	d := decoder{problems: ps, fields: make(map[reflect.Type][]string)}
	taken, same := make(taken), make(sameOperations)
	for i, n := range nodes {
		before := len(ps.list)
		d.document(n, &docs[i])
		name := docs[i].Metadata.Name
		for j := range ps.list[before:] {
			ps.list[before+j].Document = name
		}
		if len(ps.list) > before {
			continue
		}
		report := func(at *path, msg string) {
			n := n.find(at)
			ps.add(Problem{Line: n.Line, Column: n.Column, Document: name, Field: at.String(), Message: msg})
		}
		compileDocument(&docs[i], same, report)
		taken.claim(&docs[i], n.Line, report)
	}
	return docs
}

// document decodes a document, whose kind says what its spec is.
func (d *decoder) document(n *Node, doc *Document) {
	kind := ""
	if n != nil {
		for _, m := range n.Members {
			if m.Key == "kind" && m.Value != nil && m.Value.Kind == NodeString {
				kind = m.Value.Value
			}
		}
	}
	switch kind {
	case KindDefault:
		doc.Default = decodeAs[DefaultSpec](d, n, doc)
	case KindTokenIssuer:
		doc.TokenIssuer = decodeAs[TokenIssuerSpec](d, n, doc)
	default:
		doc.Spec = *decodeAs[Spec](d, n, doc)
	}
}

func decodeAs[S any](d *decoder, n *Node, doc *Document) *S {
	var raw struct {
		APIVersion string   `json:"apiVersion"`
		Kind       string   `json:"kind"`
		Metadata   Metadata `json:"metadata"`
		Spec       S        `json:"spec"`
	}
	d.decode(n, reflect.ValueOf(&raw).Elem(), nil)
	doc.APIVersion, doc.Kind, doc.Metadata = raw.APIVersion, raw.Kind, raw.Metadata
	return &raw.Spec
}

// taken holds what a document may have only once in all of them, and the lines of those documents.
type taken map[[2]string]int

// claim reports what of the document was there before: its name, the service of a default, the issuer.
func (seen taken) claim(doc *Document, line int, report func(*path, string)) {
	seen.one("name", doc.Metadata.Name, line, (&path{field: "metadata"}).at("name"), report)
	spec := &path{field: "spec"}
	switch {
	case doc.Default != nil:
		seen.one("default for", doc.Default.Service, line, spec.at("service"), report)
	case doc.TokenIssuer != nil:
		seen.one("issuer", doc.TokenIssuer.Issuer, line, spec.at("issuer"), report)
	}
}

func (seen taken) one(what, value string, line int, at *path, report func(*path, string)) {
	first, dup := seen[[2]string{what, value}]
	switch {
	case !dup:
		seen[[2]string{what, value}] = line
	case first > 0:
		report(at, fmt.Sprintf("the %s %q is taken by the document on line %d", what, value, first))
	default:
		report(at, fmt.Sprintf("the %s %q is taken by another document", what, value))
	}
}

// A path is a field's place in a document, built from the leaf up and only put into words
// for an error.
type path struct {
	up    *path
	field string // of an object, else
	index int    // of a list
}

func (p *path) String() string {
	if p == nil {
		return ""
	}
	up := p.up.String()
	switch {
	case p.field == "":
		return up + "[" + strconv.Itoa(p.index) + "]"
	case up == "":
		return p.field
	}
	return up + "." + p.field
}

// find returns the node at p, or the closest one around it.
func (n *Node) find(p *path) *Node {
	if p == nil {
		return n
	}
	up := n.find(p.up)
	if p.field == "" && up.Kind == NodeList && p.index < len(up.Items) {
		return up.Items[p.index]
	}
	for _, m := range up.Members {
		if p.field != "" && m.Key == p.field {
			return m.Value
		}
	}
	return up
}

// decoder fills Go values of struct, slice, map[string]string, string and uint64 from trees. A
// []*Node takes the elements of a list as they are.
type decoder struct {
	*problems
	fields map[reflect.Type][]string // the JSON names of a struct's fields, by index
}

func (d *decoder) fail(line, column int, at *path, format string, args ...any) {
	d.add(Problem{Line: line, Column: column, Field: at.String(), Message: fmt.Sprintf(format, args...)})
}

func (d *decoder) decode(n *Node, v reflect.Value, at *path) {
	if n == nil {
		n = &Node{}
	}
	want := kindFor(v.Kind())
	if n.Kind == NodeNull {
		d.fail(n.Line, n.Column, at, "has no value; want %s, or leave the field out", want)
		return
	}
	if n.Kind != want {
		d.fail(n.Line, n.Column, at, "want %s, found %s", want, n.Kind)
		return
	}
	switch v.Kind() {
	case reflect.Struct, reflect.Map:
		d.object(n, v, at)
	case reflect.Slice:
		d.slice(n, v, at)
	case reflect.String:
		v.SetString(n.Value)
	default:
		u, err := strconv.ParseUint(n.Value, 10, 64)
		if err != nil {
			d.fail(n.Line, n.Column, at, "%q is not a whole number from 0 to 2^64-1", n.Value)
		}
		v.SetUint(u)
	}
}

func kindFor(k reflect.Kind) NodeKind {
	switch k {
	case reflect.Struct, reflect.Map:
		return NodeObject
	case reflect.Slice:
		return NodeList
	case reflect.String:
		return NodeString
	default:
		return NodeNumber
	}
}

func (d *decoder) slice(n *Node, v reflect.Value, at *path) {
	if v.Type() == reflect.TypeFor[[]*Node]() {
		v.Set(reflect.ValueOf(n.Items))
		return
	}
	limit := MaxEntries
	switch v.Type() {
	case reflect.TypeFor[[]string]():
		limit = MaxValues
	case reflect.TypeFor[[]Rule]():
		limit = MaxRules
	}
	if len(n.Items) > limit {
		d.fail(n.Line, n.Column, at, "has %d elements; at most %d are accepted", len(n.Items), limit)
		return
	}
	if len(n.Items) == 0 && (at.field == "rules" || strings.HasPrefix(at.field, "not")) {
		return // means the same as a field left out
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Items), len(n.Items)))
	for i, item := range n.Items {
		d.decode(item, v.Index(i), &path{up: at, index: i})
	}
}

func (d *decoder) object(n *Node, v reflect.Value, up *path) {
	seen := make(map[string]int, len(n.Members))
	for _, m := range n.Members {
		at := &path{up: up, field: m.Key}
		if line, dup := seen[m.Key]; dup {
			d.fail(m.Line, m.Column, at, "the field is there twice, first on line %d", line)
			continue
		}
		seen[m.Key] = m.Line
		if v.Kind() == reflect.Map {
			value := reflect.New(v.Type().Elem()).Elem()
			d.decode(m.Value, value, at)
			if v.IsNil() {
				v.Set(reflect.MakeMap(v.Type()))
			}
			v.SetMapIndex(reflect.ValueOf(m.Key), value)
			continue
		}
		known := d.known(v.Type())
		i := slices.Index(known, m.Key)
		if i < 0 {
			d.fail(m.Line, m.Column, at, "unknown field; the fields here are %s", strings.Join(known, ", "))
			continue
		}
		d.decode(m.Value, v.Field(i), at)
	}
}

func (d *decoder) known(t reflect.Type) []string {
	if _, ok := d.fields[t]; !ok {
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			d.fields[t] = append(d.fields[t], name)
		}
	}
	return d.fields[t]
}
