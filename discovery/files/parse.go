package files

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/internal/names"
)

// A ParseError says where a file is not what it should be, and why.
type ParseError struct {
	File string
	// Line and Column count from 1; a column is a byte.
	Line, Column int
	// Field is the path of the value, "endpoints[3].address"; it may be empty.
	Field string
	Err   error
}

// Error returns "file:line:column: field: reason".
func (e *ParseError) Error() string {
	field := ""
	if e.Field != "" {
		field = e.Field + ": "
	}
	return fmt.Sprintf("%s:%d:%d: %s%v", e.File, e.Line, e.Column, field, e.Err)
}

// Unwrap returns the reason.
func (e *ParseError) Unwrap() error { return e.Err }

// maxText bounds an instance's and a zone's name, in bytes.
const maxText = 128

// Parse reads endpoints as a file has them; name is the file's, for errors, which are a [*ParseError]. The first error
// ends it.
func Parse(name string, data []byte) ([]discovery.Endpoint, error) {
	r := &reader{name: name, data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	var all []discovery.Endpoint
	type triple struct{ instance, service, port string }
	seen := make(map[triple]bool)
	element := func() error {
		start := r.next()
		ep, err := r.endpoint()
		if err != nil {
			return err
		}
		t := triple{ep.Instance, ep.Service, ep.Port}
		if seen[t] {
			return r.fail(start, fmt.Errorf("instance %s of %s is listed twice for port %q", ep.Instance, ep.Service, ep.Port))
		}
		seen[t] = true
		all = append(all, ep)
		return nil
	}
	if err := r.object(fields{"endpoints": func() error { return r.array(element) }}); err != nil {
		return nil, err
	}
	if at := r.next(); at < len(data) {
		return nil, r.fail(at, errors.New("something follows the object"))
	}
	return all, nil
}

// fields are an object's, each with what reads its value.
type fields map[string]func() error

// reader reads JSON token by token, so that it knows where it is and never goes deeper than what it expects.
type reader struct {
	name string
	data []byte
	dec  *json.Decoder
	path []string
}

// next returns the offset of the next token.
func (r *reader) next() int {
	at := int(r.dec.InputOffset())
	return at + len(r.data[at:]) - len(bytes.TrimLeft(r.data[at:], " \t\r\n,:"))
}

func (r *reader) fail(at int, err error) error {
	before := r.data[:min(at, len(r.data))]
	return &ParseError{
		File: r.name, Line: 1 + bytes.Count(before, []byte{'\n'}), Column: len(before) - bytes.LastIndexByte(before, '\n'),
		Field: strings.TrimPrefix(strings.Join(r.path, ""), "."), Err: err,
	}
}

// token returns the next token, and fails unless it is of the wanted type.
func token[T json.Token](r *reader, want string) (T, error) {
	at := r.next()
	t, err := r.dec.Token()
	var syntax *json.SyntaxError
	v, ok := t.(T)
	switch {
	case errors.As(err, &syntax):
		return v, r.fail(max(int(syntax.Offset)-1, at), errors.New(strings.TrimPrefix(err.Error(), "json: ")))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return v, r.fail(len(r.data), errors.New("the file ends too early"))
	case err != nil:
		return v, r.fail(at, err)
	case !ok:
		return v, r.fail(at, fmt.Errorf("want %s", want))
	}
	return v, nil
}

// open reads the delimiter that an object or array begins with.
func (r *reader) open(d json.Delim, want string) error {
	at := r.next()
	got, err := token[json.Delim](r, want)
	if err == nil && got != d {
		err = r.fail(at, fmt.Errorf("want %s", want))
	}
	return err
}

func (r *reader) object(known fields) error {
	if err := r.open('{', "an object"); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for r.dec.More() {
		at := r.next()
		key, err := token[string](r, "a field's name")
		if err != nil {
			return err
		}
		r.path = append(r.path, "."+key)
		value := known[key]
		switch {
		case value == nil:
			return r.fail(at, errors.New("unknown field"))
		case seen[key]:
			return r.fail(at, errors.New("given twice"))
		}
		seen[key] = true
		if err := value(); err != nil {
			return err
		}
		r.path = r.path[:len(r.path)-1]
	}
	_, err := token[json.Delim](r, "the object's end")
	return err
}

// array calls element for each element, to read it.
func (r *reader) array(element func() error) error {
	if err := r.open('[', "a list"); err != nil {
		return err
	}
	for i := 0; r.dec.More(); i++ {
		r.path = append(r.path, fmt.Sprintf("[%d]", i))
		if err := element(); err != nil {
			return err
		}
		r.path = r.path[:len(r.path)-1]
	}
	_, err := token[json.Delim](r, "the list's end")
	return err
}

// text reads a string into dst and checks it.
func (r *reader) text(dst *string, check func(string) error) error {
	at := r.next()
	s, err := token[string](r, "a string")
	if err != nil {
		return err
	}
	if err := check(s); err != nil {
		return r.fail(at, err)
	}
	*dst = s
	return nil
}

func (r *reader) endpoint() (ep discovery.Endpoint, err error) {
	start := r.next()
	var address, state string
	err = r.object(fields{
		"service":  func() error { return r.text(&ep.Service, names.CheckService) },
		"port":     func() error { return r.text(&ep.Port, names.CheckPort) },
		"instance": func() error { return r.text(&ep.Instance, checkText) },
		"zone":     func() error { return r.text(&ep.Zone, checkText) },
		"address": func() error {
			return r.text(&address, func(s string) (err error) {
				ep.Addr, err = netip.ParseAddrPort(s)
				if err == nil && ep.Addr.Port() == 0 {
					err = errors.New("the port is 0")
				}
				return err
			})
		},
		"also": func() error {
			var addrs []netip.Addr
			err := r.array(func() error {
				var s string
				return r.text(&s, func(s string) error {
					a, err := netip.ParseAddr(s)
					if addrs = append(addrs, a); err == nil && len(addrs) > discovery.MaxAlso {
						err = fmt.Errorf("want at most %d more addresses", discovery.MaxAlso)
					}
					return err
				})
			})
			ep.Also = discovery.AddrsOf(addrs...)
			return err
		},
		"state": func() error {
			return r.text(&state, func(s string) (err error) {
				ep.State, err = parseState(s)
				return err
			})
		},
		"weight": func() error { return r.weight(&ep.Weight) },
	})
	switch {
	case err != nil:
		return ep, err
	case ep.Service == "":
		return ep, r.fail(start, errors.New("service is missing"))
	case address == "":
		return ep, r.fail(start, errors.New("address is missing"))
	}
	ep.Addr = netip.AddrPortFrom(ep.Addr.Addr().Unmap(), ep.Addr.Port())
	ep.Instance = cmp.Or(ep.Instance, ep.Addr.String())
	return ep, nil
}

func (r *reader) weight(dst *uint16) error {
	at := r.next()
	n, err := token[json.Number](r, "a number")
	if err != nil {
		return err
	}
	w, err := strconv.ParseUint(n.String(), 10, 16)
	if err != nil || w == 0 {
		return r.fail(at, errors.New("want a whole number from 1 to 65535"))
	}
	*dst = uint16(w)
	return nil
}

func parseState(s string) (discovery.State, error) {
	for _, st := range []discovery.State{discovery.Ready, discovery.Starting, discovery.Draining} {
		if s == st.String() {
			return st, nil
		}
	}
	return 0, errors.New("want ready, starting or draining")
}

// checkText is about what ends up in logs.
func checkText(s string) error {
	if s == "" || len(s) > maxText || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("want 1 to %d printable ASCII characters without spaces", maxText)
	}
	return nil
}
