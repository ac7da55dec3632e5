// Package names says what services and ports may be called.
package names

import (
	"errors"
	"fmt"
	"strings"
)

// maxService is the length of the longest host name (RFC 1035, section 2.3.4).
const maxService = 253

// CheckService accepts names that fit a SPIFFE ID's path and a URL's host alike: segments
// separated by "/".
func CheckService(name string) error {
	if name == "" {
		return errors.New("service name is empty")
	}
	if len(name) > maxService {
		return fmt.Errorf("service name is longer than %d bytes", maxService)
	}
	for seg := range strings.SplitSeq(name, "/") {
		if err := checkName("service", seg); err != nil {
			return err
		}
	}
	return nil
}

// CheckPort accepts the name of a port that is not the default one, which has none.
func CheckPort(name string) error { return checkName("port", name) }

// checkName accepts 1 to 63 of a–z, 0–9, "-" and "_", starting with a letter or digit.
func checkName(what, s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("%s name %q: want 1 to 63 characters", what, s)
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '_') {
			continue
		}
		return fmt.Errorf("%s name %q: character %q is not one of a–z, 0–9, - and _", what, s, c)
	}
	return nil
}
