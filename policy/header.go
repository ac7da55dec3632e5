package policy

import (
	"net/http"
	"strings"
)

// maxElements bounds the lines of a header and their elements that a condition is held against. A request with more of
// them is one whose header is not known.
const maxElements = 1000

// matchHeader decides a condition on a header: an allow needs every line, others are content with one.
//
// Who forwards a request may join lines by commas (RFC 9110, section 5.3), so that a line is also its elements: an
// allow needs each of them too, and others are content with one. Else joining would get around "x is not b" with
// "x: a, b". A line that the condition names as a whole, without "*", is not taken apart where that is what its author
// wants: as one of the values of an allow, or one of the notValues of a deny.
func (c *conditionMatch) matchHeader(q *query) bool {
	if q.Layer == LayerConnection || q.Header == nil {
		return q.unknownRequest
	}
	lines, more := c.lines(q.Header)
	left := maxElements - len(lines) - len(more)
	if left == maxElements {
		return c.values == nil
	}
	for _, lines := range [...][]string{lines, more} {
		for _, s := range lines {
			n := strings.Count(s, ",")
			if left -= n; left < 0 {
				return q.unknownRequest
			}
			if in(c.values, c.notValues, s) == q.anyValue || n > 0 && c.matchElements(s, q.anyValue) == q.anyValue {
				return q.anyValue
			}
		}
	}
	return !q.anyValue
}

// matchElements is for any of a line's elements, or else for all of them.
func (c *conditionMatch) matchElements(line string, anyOf bool) bool {
	values := c.values
	switch {
	case anyOf && c.notValues.names(line):
		return false
	case !anyOf && values.names(line):
		values = nil
	}
	for s := range strings.SplitSeq(line, ",") {
		if in(values, c.notValues, strings.Trim(s, " \t")) == anyOf {
			return anyOf
		}
	}
	return !anyOf
}

// headerName is a header's name, as net/http and as gRPC spell it.
type headerName struct{ canonical, lower string }

func newHeaderName(s string) headerName {
	return headerName{http.CanonicalHeaderKey(s), strings.ToLower(s)}
}

func (n headerName) lines(h http.Header) (lines, more []string) {
	if n.lower != n.canonical {
		more = h[n.lower]
	}
	return h[n.canonical], more
}
