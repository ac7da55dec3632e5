package mesh

import (
	"net/http"
	"net/netip"
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
	if r.URL.RawPath == "" && isPlainPath(p) {
		return p, nil
	}
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
	for rest, more := p[1:], true; more; {
		var seg string
		seg, rest, more = strings.Cut(rest, "/")
		switch {
		case seg == "." || seg == "..":
			return "", badRequest("the path has a dot segment")
		case seg == "" && more: // the last one is empty after a final slash
			return "", badRequest("the path has an empty segment")
		}
	}
	return p, nil
}

// Most paths and hosts are known to have one reading after one look. What the next two say no to may still have one.

// isPlainPath reports whether a path is segments of letters, digits and a few marks, with dots in them, but not in front.
func isPlainPath(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	start := true // of a segment
	for i := 1; i < len(p); i++ {
		switch c := p[i]; {
		case isPlain(c) || c >= 'A' && c <= 'Z' || c == '~':
			start = false
		case start:
			return false
		case c == '/':
			start = true
		case c != '.':
			return false
		}
	}
	return true
}

// isPlainHost reports whether a host is canonical: labels in lower case, with dots between them.
func isPlainHost(h string) bool {
	start := true // of a label
	for i := range len(h) {
		switch {
		case isPlain(h[i]):
			start = false
		case h[i] != '.' || start:
			return false
		default:
			start = true
		}
	}
	return !start
}

func isPlain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// canonicalHost returns the host in lower case, without port, final dot and an IPv6 address's brackets. It is empty when the
// request names none.
func canonicalHost(h string) (string, error) {
	if h == "" || isPlainHost(h) {
		return h, nil
	}
	if v6, port, ok := strings.Cut(h, "]"); ok {
		addr, err := netip.ParseAddr(strings.TrimPrefix(v6, "["))
		if err != nil || !addr.Is6() || addr.Zone() != "" || v6[0] != '[' || !isPort(port) {
			return "", badRequest("the host is not an address")
		}
		return addr.String(), nil
	}
	name, _, _ := strings.Cut(h, ":")
	if !isPort(h[len(name):]) {
		return "", badRequest("the host has a port that is not a number")
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || strings.IndexFunc(label, notInHost) >= 0 {
			return "", badRequest("the host is not a name")
		}
	}
	return name, nil
}

// isPort reports whether s is a port after a host: nothing, or a colon and digits, even none (RFC 3986, section 3.2.3).
func isPort(s string) bool {
	return s == "" || s[0] == ':' && strings.Trim(s[1:], "0123456789") == ""
}

func notInHost(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
}
