package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// values is a list of a document, ready to be matched: one of them must. A nil *values is
// a list that is not there.
type values struct {
	any   bool                // "*"
	exact []string            // few exact values, else
	set   map[string]struct{} // many
	// prefixes, suffixes and templates come after the exact ones.
	prefixes, suffixes []string
	templates          [][]segment
}

// manyValues is from where on a map is faster than looking at each value.
const manyValues = 8

func (v *values) match(s string) bool {
	if v.any {
		return true
	}
	if v.set != nil {
		if _, ok := v.set[s]; ok {
			return true
		}
	} else if slices.Contains(v.exact, s) {
		return true
	}
	for _, p := range v.prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	for _, p := range v.suffixes {
		if strings.HasSuffix(s, p) {
			return true
		}
	}
	for _, t := range v.templates {
		if matchTemplate(t, s) {
			return true
		}
	}
	return false
}

// shape is what a value is once its "*" is cut off.
type shape uint8

const (
	shapeExact shape = iota
	shapePrefix
	shapeSuffix
	shapeAny
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

func (v *values) add(sh shape, text string) {
	switch sh {
	case shapeAny:
		v.any = true
	case shapePrefix:
		v.prefixes = append(v.prefixes, text)
	case shapeSuffix:
		v.suffixes = append(v.suffixes, text)
	case shapeExact:
		v.exact = append(v.exact, text)
	}
}

// done ends the adding.
func (v *values) done() {
	if len(v.exact) <= manyValues {
		return
	}
	v.set = make(map[string]struct{}, len(v.exact))
	for _, s := range v.exact {
		v.set[s] = struct{}{}
	}
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
		if seg.kind == rest {
			return true
		}
		part := path
		if i := strings.IndexByte(path, '/'); i >= 0 {
			part = path[:i]
		}
		if seg.kind == one && part == "" || seg.kind == literal && part != seg.text {
			return false
		}
		path = path[len(part):]
	}
	return path == ""
}
