// Package names knows which names services can have.
package names

import (
	"fmt"
	"strings"

	"github.com/intramesh/mesh/internal/names"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const reserved = "mesh/"

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
	if err := names.CheckService(service); err != nil {
		return spiffeid.ID{}, fmt.Errorf("service %q: want segments separated by /: %w", service, err)
	}
	return spiffeid.FromPath(td, "/"+service)
}

// CheckOrdinary returns an error unless name is one that a process can enrol as.
func CheckOrdinary(name string) error {
	_, err := Ordinary(spiffeid.RequireTrustDomainFromString("x"), name)
	return err
}
