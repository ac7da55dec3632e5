package mesh

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/policy"
)

// ErrClosed is returned by calls on a closed [Mesh], listener or connection.
// errors.Is(ErrClosed, net.ErrClosed) holds.
var ErrClosed error = &closedError{}

type closedError struct{}

func (*closedError) Error() string        { return "mesh: closed" }
func (*closedError) Is(target error) bool { return target == net.ErrClosed }

// ErrNoEndpoints is inside a [DialError] when discovery knows no endpoint of the
// service that takes traffic. A [*NoEndpointsError] tells what it knows.
var ErrNoEndpoints = errors.New("no endpoints")

// A NoEndpointsError tells what discovery knows of a service, none of which takes traffic. errors.Is(err,
// ErrNoEndpoints) holds.
type NoEndpointsError struct {
	// Port is the named port that was dialed, "" for the default one.
	Port string
	// Ports are the service's named ports, "" for the default one, when none is the one that was dialed. With neither
	// Ports nor endpoints the service is unknown.
	Ports []string
	// Starting and Draining count the port's endpoints that say so of themselves, Suspect those of them that seem to
	// be gone.
	Starting, Draining, Suspect int
}

// NewNoEndpointsError describes what is known of a service when none of it can be used for a port; it is for adapters.
func NewNoEndpointsError(port string, known []discovery.Endpoint) *NoEndpointsError {
	e := &NoEndpointsError{Port: port}
	for _, ep := range known {
		switch {
		case ep.Port != port:
			e.Ports = append(e.Ports, ep.Port)
		case ep.Suspect:
			e.Suspect++
		case ep.State == discovery.Starting:
			e.Starting++
		case ep.State == discovery.Draining:
			e.Draining++
		}
	}
	if e.Starting+e.Draining+e.Suspect > 0 {
		e.Ports = nil
	}
	slices.Sort(e.Ports)
	e.Ports = slices.Compact(e.Ports)
	return e
}

// Error lists what is known: "no endpoints: 3 draining, 1 suspect".
func (e *NoEndpointsError) Error() string {
	return ErrNoEndpoints.Error() + ": " + e.known()
}

func (e *NoEndpointsError) known() string {
	if len(e.Ports) > 0 {
		names := make([]string, len(e.Ports))
		for i, p := range e.Ports {
			names[i] = portName(p)
		}
		return "no port " + portName(e.Port) + "; known ports: " + strings.Join(names, ", ")
	}
	var parts []string
	for _, part := range []struct {
		n    int
		what string
	}{{e.Starting, "starting"}, {e.Draining, "draining"}, {e.Suspect, "suspect"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	if parts == nil {
		return "discovery does not know the service"
	}
	return strings.Join(parts, ", ")
}

// Is makes it an ErrNoEndpoints.
func (e *NoEndpointsError) Is(target error) bool { return target == ErrNoEndpoints }

// A DialError says why a service could not be reached. It is returned by [Mesh.Dial] and,
// inside a *url.Error, by the HTTP client.
type DialError struct {
	// Service and Port are what was dialed.
	Service, Port string
	// Addr is the last endpoint that was tried, "" when there was none to try.
	Addr string
	// Attempts counts the endpoints that were tried.
	Attempts int
	// Err is the last attempt's error.
	Err error
}

// Error describes the dial: "mesh: dial payments at 10.0.0.7:443: connection refused".
func (e *DialError) Error() string {
	s := "mesh: dial " + joinTarget(e.Service, e.Port)
	if e.Addr != "" {
		s += " at " + e.Addr
	}
	if e.Attempts > 1 {
		s += " (the last of " + strconv.Itoa(e.Attempts) + " endpoints)"
	}
	return s + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *DialError) Unwrap() error { return e.Err }

// Timeout reports whether the last attempt timed out, as net.Error wants it.
func (e *DialError) Timeout() bool {
	t, ok := errors.AsType[net.Error](e.Err)
	return ok && t.Timeout()
}

// Temporary is part of net.Error; it is always false.
func (e *DialError) Temporary() bool { return false }

// A DeniedError says that the rules refuse a connection or a request, and which rule does.
// The caller gets it from the first Read or Write of a raw connection and from a gRPC call. Over HTTP a refusal,
// of a request or of the whole connection, is a 403 response: see [DeniedFromResponse].
//
// What the caller is told is up to the callee's operator, see [policy.DefaultSpec].Denials: without a word on why, Policy, Version and
// Reason are empty, Rule is -1, and a gRPC call fails with PERMISSION_DENIED and no DeniedError.
type DeniedError struct {
	// Source is the caller's SPIFFE ID.
	Source string `json:"source"`
	// Destination is the service that was called, Port its named port.
	Destination string `json:"destination"`
	Port        string `json:"port,omitempty"`
	// Decision tells the policy, the rule, the bundle version, the layer and the reason.
	policy.Decision

	cause error // on the side that decided; may be nil
}

// Error names both ends, the rule and the reason:
// "mesh: spiffe://prod/orders to payments: denied by payments-callers[2]: …".
func (e *DeniedError) Error() string {
	s := "mesh: " + e.Source + " to " + joinTarget(e.Destination, e.Port) + ": denied"
	if e.Policy != "" {
		s += " by " + e.Policy
		if e.Rule >= 0 {
			s += "[" + strconv.Itoa(e.Rule) + "]"
		}
	}
	if e.Version != 0 || e.Reason != "" {
		s += " (" + e.Layer.String() + ", rules v" + strconv.FormatUint(e.Version, 10) + "): " + e.Reason
	}
	return s
}

// Told returns what the caller may know: all of it when [policy.Decision].Tell is set, else that it is denied. For adapters.
func (e *DeniedError) Told() *DeniedError {
	return &DeniedError{Source: e.Source, Destination: e.Destination, Port: e.Port, Decision: e.Decision.Told()}
}

// Unwrap returns a *policy.RevokedError or *identity.VerifyError on the side that no longer trusts the other's certificate, else nil.
func (e *DeniedError) Unwrap() error { return e.cause }
