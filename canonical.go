package mesh

import (
	"net"
	"net/http"
	"strings"
	"unicode/utf8"
)

// badRequest is what an ambiguous request is told.
type badRequest string

func (e badRequest) Error() string { return string(e) }

// canonicalPath returns the decoded path when it has one reading only. It does not repair: what some router would
// clean, decode again or cut off is refused.
func canonicalPath(r *http.Request) (string, error) {
	p := r.URL.Path
	if p == "*" && r.Method == http.MethodOptions {
		return p, nil
	}
	if !strings.HasPrefix(p, "/") {
		return "", badRequest("the path does not start with a slash")
	}
	if !utf8.ValidString(p) {
		return "", badRequest("the path is not UTF-8")
	}
	for i := range len(p) {
		switch c := p[i]; {
		case c < 0x20, c == 0x7f:
			return "", badRequest("the path has a control character")
		case c == '\\', c == ';', c == '#', c == '?':
			return "", badRequest("the path has a " + string(rune(c)))
		case c == '%' && i+2 < len(p) && isHex(p[i+1]) && isHex(p[i+2]):
			return "", badRequest("the path is encoded twice")
		}
	}
	// An encoded slash was one character to the client and is a separator to us.
	if raw := strings.ToLower(r.URL.RawPath); strings.Contains(raw, "%2f") {
		return "", badRequest("the path has an encoded slash")
	}
	segs := strings.Split(p[1:], "/")
	for i, seg := range segs {
		switch {
		case seg == "." || seg == "..":
			return "", badRequest("the path has a dot segment")
		case seg == "" && i < len(segs)-1: // the last one is empty after a final slash
			return "", badRequest("the path has an empty segment")
		}
	}
	return p, nil
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// canonicalHost lowers, and removes the port and the final dot.
func canonicalHost(h string) (string, error) {
	if host, _, err := net.SplitHostPort(h); err == nil {
		h = host
	}
	if inner, ok := strings.CutPrefix(h, "["); ok {
		h = strings.TrimSuffix(inner, "]") // an IPv6 address is the same with a port and without
	}
	h = strings.TrimSuffix(strings.ToLower(h), ".")
	for i := range len(h) {
		switch c := h[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_', c == ':':
		default:
			return "", badRequest("the host has a character that no name has")
		}
	}
	return h, nil
}
