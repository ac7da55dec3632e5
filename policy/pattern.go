package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// values is a list of a document, ready to be matched: one of them must. A nil values is a
// list that is not there.
type values []pattern

// A pattern is one value, or many exact ones together.
type pattern struct {
	text  string // without its "*"
	more  *morePattern
	shape shape
}

type morePattern struct {
	set      map[string]struct{}
	template []segment
}

func (v values) match(s string) bool {
	for i := range v {
		if v[i].match(s) {
			return true
		}
	}
	return false
}

// names reports whether s is one of the values as a whole, not by a "*".
func (v values) names(s string) bool {
	for i := range v {
		if p := &v[i]; (p.shape == shapeExact || p.shape == shapeSet) && p.match(s) {
			return true
		}
	}
	return false
}

func (p *pattern) match(s string) bool {
	switch p.shape {
	case shapeExact:
		return s == p.text
	case shapePrefix:
		return strings.HasPrefix(s, p.text)
	case shapeSuffix:
		return strings.HasSuffix(s, p.text)
	case shapeAny:
		return true
	case shapeSet:
		_, ok := p.more.set[s]
		return ok
	case shapeTemplate:
		return matchTemplate(p.more.template, s)
	}
	return false
}

// shape is how a pattern matches.
type shape uint8

const (
	shapeExact shape = iota
	shapePrefix
	shapeSuffix
	shapeAny
	shapeSet
	shapeTemplate
)

// parseShape cuts the "*" off a value.
func parseShape(s string) (shape, string, error) {
	switch i := strings.IndexByte(s, '*'); {
	case i < 0:
		return shapeExact, s, nil
	case s == "*":
		return shapeAny, "", nil
	case strings.Count(s, "*") > 1:
		return 0, "", errors.New(`has more than one "*"`)
	case i == len(s)-1:
		return shapePrefix, s[:i], nil
	case i == 0:
		return shapeSuffix, s[1:], nil
	}
	return 0, "", errors.New(`has a "*" in the middle; it may stand at one end`)
}

func (v *values) add(sh shape, text string) { *v = append(*v, pattern{text: text, shape: sh}) }

// manyValues is from where on a map is faster than looking at each value.
const manyValues = 8

// done ends the adding: it puts many exact values into one pattern, and frees what append left over.
func (v *values) done() {
	set := make(map[string]struct{})
	for _, p := range *v {
		if p.shape == shapeExact {
			set[p.text] = struct{}{}
		}
	}
	if len(set) > manyValues {
		var others values
		for _, p := range *v {
			if p.shape != shapeExact {
				others = append(others, p)
			}
		}
		*v = append(others, pattern{shape: shapeSet, more: &morePattern{set: set}})
	}
	*v = slices.Clip(*v)
}

// A segment is one part of a path template, between slashes.
type segment struct {
	kind segmentKind
	text string // of a literal
}

type segmentKind uint8

const (
	literal segmentKind = iota
	one                 // {name}
	rest                // {name...}
)

// parseTemplate reads a path with {name} in it, such as "/v1/{id}/refund".
func parseTemplate(s string) ([]segment, error) {
	if strings.Contains(s, "*") {
		return nil, errors.New(`has both a template and a "*"; write {rest...} for what follows`)
	}
	parts := strings.Split(strings.TrimPrefix(s, "/"), "/")
	segs := make([]segment, len(parts))
	var seen []string
	for i, part := range parts {
		if !strings.ContainsAny(part, "{}") {
			segs[i] = segment{literal, part}
			continue
		}
		name, ok := strings.CutPrefix(part, "{")
		name, ok2 := strings.CutSuffix(name, "}")
		name, dots := strings.CutSuffix(name, "...")
		if !ok || !ok2 || !isIdentifier(name) {
			return nil, fmt.Errorf("segment %q is neither text, {name} nor {name...}", part)
		}
		if slices.Contains(seen, name) {
			return nil, fmt.Errorf("{%s} is there twice", name)
		}
		seen = append(seen, name)
		segs[i].kind = one
		if dots {
			segs[i].kind = rest
			if i != len(parts)-1 {
				return nil, fmt.Errorf("{%s...} is not at the end", name)
			}
		}
	}
	return segs, nil
}

func isIdentifier(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// matchTemplate reports whether the path fits. {name} takes one segment that is not empty,
// {name...} what is left, as in net/http.ServeMux.
func matchTemplate(segs []segment, path string) bool {
	for _, seg := range segs {
		if path == "" || path[0] != '/' {
			return false
		}
		path = path[1:]
		switch seg.kind {
		case rest:
			return true
		case literal: // what follows it is looked at next
			if !strings.HasPrefix(path, seg.text) {
				return false
			}
			path = path[len(seg.text):]
		case one:
			n := strings.IndexByte(path, '/')
			if n < 0 {
				n = len(path)
			}
			if n == 0 {
				return false
			}
			path = path[n:]
		}
	}
	return path == ""
}
