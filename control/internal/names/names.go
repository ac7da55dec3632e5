// Package names knows which names services can have.
package names

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	maxServiceLen = 253
	reserved      = "mesh/"
)

// Check returns an error unless name is one that a process can have, the
// control plane's included.
func Check(name string) error {
	_, err := ID(spiffeid.RequireTrustDomainFromString("x"), name)
	return err
}

// Ordinary returns the SPIFFE ID of a service that a process may enrol as. Names below
// "mesh/" belong to the control plane itself, which issues them to itself.
func Ordinary(td spiffeid.TrustDomain, service string) (spiffeid.ID, error) {
	if service == strings.TrimSuffix(reserved, "/") || strings.HasPrefix(service, reserved) {
		return spiffeid.ID{}, fmt.Errorf("service name %q: names below %q are reserved", service, reserved)
	}
	return ID(td, service)
}

// ID returns the SPIFFE ID of a service.
func ID(td spiffeid.TrustDomain, service string) (spiffeid.ID, error) {
	if len(service) > maxServiceLen {
		return spiffeid.ID{}, fmt.Errorf("service name is longer than %d bytes", maxServiceLen)
	}
	for seg := range strings.SplitSeq(service, "/") {
		if err := checkSegment(seg); err != nil {
			return spiffeid.ID{}, fmt.Errorf("service name %q: %w", service, err)
		}
	}
	return spiffeid.FromPath(td, "/"+service)
}

// checkSegment accepts what the mesh package accepts between two slashes of a name.
func checkSegment(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("segment %q: want 1 to 63 characters", s)
	}
	for i, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', i > 0 && (c == '-' || c == '_'):
		default:
			return fmt.Errorf("character %q is not one of a–z, 0–9, - and _, in this place", c)
		}
	}
	return nil
}

// CheckOrdinary returns an error unless name is one that a process can enrol as.
func CheckOrdinary(name string) error {
	_, err := Ordinary(spiffeid.RequireTrustDomainFromString("x"), name)
	return err
}
