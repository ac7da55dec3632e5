package policy

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A valueParser adds one value of a document to a list, or says what is wrong with it.
type valueParser func(v *values, s string) error

// parseService accepts a caller's name: a SPIFFE path without its leading slash.
func parseService(v *values, s string) error {
	sh, text, err := parseShape(s)
	name := text
	switch {
	case err != nil:
		return err
	case sh == shapeAny:
		v.add(sh, "")
		return nil
	case sh == shapeSuffix:
		return errors.New("a suffix would match names that anybody may choose; a service is exact, a prefix such as \"billing/*\", or \"*\"")
	case sh == shapePrefix && !strings.HasSuffix(text, "/"):
		return fmt.Errorf("a prefix of services ends at a \"/\"; did you mean \"%s/*\"?", text)
	case sh == shapePrefix:
		name = strings.TrimSuffix(text, "/")
	}
	if strings.Contains(name, "://") || strings.HasPrefix(name, "/") {
		return errors.New("is written without scheme, trust domain and leading slash: \"orders\", \"billing/invoices\"")
	}
	for seg := range strings.SplitSeq(name, "/") {
		if err := spiffeid.ValidatePathSegment(seg); err != nil {
			return fmt.Errorf("is not a service's name: %w", err)
		}
	}
	v.add(sh, text)
	return nil
}

// parseDestination accepts what [parseService] does, within the names that a service of
// ours can have: segments of 1 to 63 of a–z, 0–9, "-" and "_", at most 253 bytes together.
func parseDestination(v *values, s string) error {
	if err := parseService(v, s); err != nil || s == "*" {
		return err
	}
	for seg := range strings.SplitSeq(strings.TrimSuffix(s, "/*"), "/") {
		if len(seg) > 63 || len(s) > 253 || seg[0] == '-' || seg[0] == '_' || strings.IndexFunc(seg, notInPort) >= 0 {
			return fmt.Errorf("no service can have this name: %q is not 1 to 63 of a–z, 0–9, \"-\" and \"_\", the first a letter or digit", seg)
		}
	}
	return nil
}

func notInPort(r rune) bool { return notInName(r) || r == '.' }

func parseTrustDomain(v *values, s string) error {
	if s == "*" {
		v.add(shapeAny, "")
		return nil
	}
	td, err := spiffeid.TrustDomainFromString(s)
	if err == nil && td.Name() != s {
		err = fmt.Errorf("write %q", td.Name())
	}
	if err != nil {
		return fmt.Errorf("is not a trust domain (no patterns here, but for \"*\"): %w", err)
	}
	v.add(shapeExact, s)
	return nil
}

func parsePort(v *values, s string) error {
	sh, text, err := parseShape(s)
	if err != nil {
		return err
	}
	if len(text) > 63 || strings.IndexFunc(text, notInPort) >= 0 {
		return errors.New("is not a named port: want at most 63 of a–z, 0–9, \"-\" and \"_\"; \"\" is the default one")
	}
	v.add(sh, text)
	return nil
}

func parseMethod(v *values, s string) error {
	sh, text, err := parseShape(s)
	if err != nil {
		return err
	}
	if sh != shapeAny && !isToken(text) {
		return errors.New("is not an HTTP method")
	}
	if upper := strings.ToUpper(text); sh == shapeExact && text != upper && isStandardMethod(upper) {
		return fmt.Errorf("methods are compared as sent; write %q", upper)
	}
	v.add(sh, text)
	return nil
}

func isStandardMethod(s string) bool {
	switch s {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// isToken is RFC 9110's token, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}

// parsePath accepts what a canonical path can match. A pattern that no canonical path has
// would be a rule that does nothing.
func parsePath(v *values, s string) error {
	for i := range len(s) {
		if i+2 < len(s) && s[i] == '%' && isHex(s[i+1]) && isHex(s[i+2]) {
			return fmt.Errorf("paths are matched decoded; %q is encoded", s[i:i+3])
		}
		if strings.IndexByte("?#;\\", s[i]) >= 0 {
			return fmt.Errorf("paths are matched without query, fragment and parameters, and have no %q", s[i])
		}
	}
	if strings.ContainsAny(s, "{}") {
		if !strings.HasPrefix(s, "/") {
			return errors.New("a path starts with \"/\"")
		}
		if err := checkClean(s); err != nil {
			return err
		}
		t, err := parseTemplate(s)
		if err != nil {
			return err
		}
		*v = append(*v, pattern{shape: shapeTemplate, text: s, more: &morePattern{template: t}})
		return nil
	}
	sh, text, err := parseShape(s)
	if err != nil {
		return err
	}
	if (sh == shapeExact || sh == shapePrefix) && !strings.HasPrefix(text, "/") {
		return errors.New("a path starts with \"/\"")
	}
	if err := checkClean(text); err != nil {
		return err
	}
	v.add(sh, text)
	return nil
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func checkClean(path string) error {
	if strings.Contains(path, "//") || strings.Contains(path+"/", "/./") || strings.Contains(path+"/", "/../") {
		return errors.New("paths are matched cleaned; they have no \"//\", \"/./\" and \"/../\"")
	}
	return nil
}

func parseHost(v *values, s string) error {
	sh, text, err := parseShape(s)
	if err != nil {
		return err
	}
	if sh != shapeAny && text == "" {
		return errors.New("is empty")
	}
	if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil && addr.Is6() && addr.Zone() == "" {
		v.add(sh, addr.String())
		return nil
	}
	if strings.IndexFunc(text, notInName) >= 0 {
		return errors.New("is not a host: want lower case, and no port")
	}
	if (sh == shapeExact || sh == shapeSuffix) && strings.HasSuffix(text, ".") {
		return errors.New("hosts are matched without the trailing dot")
	}
	v.add(sh, text)
	return nil
}

func parseGRPC(v *values, s string) error {
	sh, text, err := parseShape(s)
	if err != nil {
		return err
	}
	service, method, slash := strings.Cut(text, "/")
	switch {
	case strings.HasPrefix(text, "/") && sh != shapeSuffix:
		return errors.New("is written without the leading slash: \"pay.v1.Payments/Charge\"")
	case sh == shapeExact && (!slash || service == "" || method == ""):
		return errors.New("is not a method; want \"pay.v1.Payments/Charge\", or \"pay.v1.Payments/*\"")
	case strings.Contains(method, "/"):
		return errors.New("has more than one slash; want \"pay.v1.Payments/Charge\"")
	}
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f {
			return fmt.Errorf("is not a gRPC method: character %q", c)
		}
	}
	v.add(sh, text)
	return nil
}

func parseHeaderValue(v *values, s string) error {
	sh, text, err := parseShape(s)
	if err != nil {
		return err
	}
	if sh == shapeExact && strings.Trim(text, " \t") != text {
		return errors.New("no header's value starts or ends with a space")
	}
	v.add(sh, text)
	return nil
}

// parsePrefix accepts an address or a CIDR prefix, without zone, and unmaps it: an IPv4
// address in IPv6 form is the IPv4 address.
func parsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, errors.New("is neither an IP address nor a prefix such as 10.0.0.0/8")
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, errors.New("is neither an IP address nor a prefix such as 10.0.0.0/8")
	}
	if a := p.Addr(); a.Is4In6() {
		if p.Bits() < 96 {
			return p, errors.New("mixes IPv4 and IPv6 addresses; write the prefix of each")
		}
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("has bits set beyond its length; did you mean %s?", p.Masked())
	}
	return p, nil
}

// checkText refuses what no value has.
func checkText(s string) error {
	if len(s) > MaxValueLen {
		return fmt.Errorf("is %d bytes long; at most %d are accepted", len(s), MaxValueLen)
	}
	for _, r := range s {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return fmt.Errorf("has the character %q", r)
		}
	}
	return nil
}
