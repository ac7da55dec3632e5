package mesh

import (
	"fmt"
	"strings"
)

// target is what an application dials: a service and one of its named ports.
type target struct{ service, port string }

func (t target) String() string { return joinTarget(t.service, t.port) }

func joinTarget(service, port string) string {
	if port == "" {
		return service
	}
	return service + ":" + port
}

// parseTarget reads "payments", "payments:admin" and "billing/invoices". A host of a URL
// can't hold a slash, so "billing.invoices" is the same service. The ports 80 and 443 that HTTP
// clients add by themselves mean the default port.
func parseTarget(address string) (target, error) {
	service, port, _ := strings.Cut(address, ":")
	if !strings.Contains(service, "/") {
		service = strings.ReplaceAll(service, ".", "/")
	}
	if port == "80" || port == "443" {
		port = ""
	}
	if err := checkService(service); err != nil {
		return target{}, fmt.Errorf("address %q: %w", address, err)
	}
	if port != "" {
		if err := checkName("port", port); err != nil {
			return target{}, fmt.Errorf("address %q: %w", address, err)
		}
	}
	return target{service, port}, nil
}

const maxServiceLen = 253

// checkService accepts names that fit a SPIFFE ID's path and a URL's host alike: segments
// separated by "/".
func checkService(name string) error {
	if name == "" {
		return fmt.Errorf("service name is empty")
	}
	if len(name) > maxServiceLen {
		return fmt.Errorf("service name is longer than %d bytes", maxServiceLen)
	}
	for seg := range strings.SplitSeq(name, "/") {
		if err := checkName("service", seg); err != nil {
			return err
		}
	}
	return nil
}

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
