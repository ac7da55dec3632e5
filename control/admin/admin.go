// Package admin is the operator's interface to a running control plane: HTTP with JSON, described by openapi.json
// (OpenAPI 3.1).
//
// On the machine itself it is on the unix socket admin.sock in the control plane's directory. Who may open the socket may
// do everything: the directory and the socket are their owner's alone, and whoever is that user, or root, could read the
// mesh's keys beside it anyway. From elsewhere it takes a client certificate, which says who calls and which [Role]
// they have.
package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

// SocketName is the socket's name in the control plane's directory.
const SocketName = "admin.sock"

// maxSocketPath is what every system's sun_path holds, with its final zero byte.
const maxSocketPath = 103

// SocketPath returns where the control plane of dir listens, or an error when the path is
// longer than a unix socket's can be.
func SocketPath(dir string) (string, error) {
	path := filepath.Join(dir, SocketName)
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("admin: socket path %s has %d bytes, and at most %d work: use a shorter or a relative directory", path, len(path), maxSocketPath)
	}
	return path, nil
}

// A Backend does what the interface offers. Its errors go to the operator as they are; wrap them in
// an [Error] to give them a status.
type Backend interface {
	Tokens
	Revocations
	Keys
	CA
	Rules
	State
	Snapshots
	Identities
}

// An Error is a refusal with an HTTP status; 400, 404 and 409 are the operator's doing.
type Error struct {
	Status  int    `json:"-"`
	Message string `json:"error"`
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Refuse wraps what the operator can mend.
func Refuse(status int, err error) error { return &Error{status, err.Error()} }

// NotFound reports whether the control plane knows no such document.
func (e *Error) NotFound() bool { return e.Status == http.StatusNotFound }

// A Question is a request to explain.
type Question struct {
	// From is the caller, a service name or a SPIFFE ID; To and Port are what it calls.
	From string `json:"from"`
	To   string `json:"to"`
	Port string `json:"port,omitempty"`
	// Method and Path make it an HTTP request, GRPC a gRPC call. With neither it is a
	// connection.
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	GRPC   string `json:"grpc,omitempty"`
	// Claims, an object, are those of the request's token, which is taken as valid; null is without one.
	Claims json.RawMessage `json:"claims,omitempty"`
}

// A Member is a process in the mesh.
type Member struct {
	// Service is by its certificate, or by what it announces when it has not asked for rules
	// yet.
	Service string `json:"service"`
	// Instance is its name in the gossip pool.
	Instance string `json:"instance"`
	// State is "alive", "suspect" when the pool holds it dead, or "observer" when it follows the pool without being a
	// member, or "unseen" when it asks for rules and does neither.
	State string `json:"state"`
	// Addr is where it gossips, or where it asked from.
	Addr string `json:"addr,omitempty"`
	// Ports are the endpoints that it announces.
	Ports []Port `json:"ports,omitempty"`
	// Rules is the version of the rules that it had when it last asked, 0 when it had none or
	// never asked.
	Rules uint64 `json:"rules"`
	// Asked is when that was.
	Asked time.Time `json:"asked,omitzero"`
	// Refused tells of a bundle that it did not take.
	Refused *Refusal `json:"refused,omitempty"`
	// Serial is the serial number, in hexadecimal, of the certificate that it last asked for rules with.
	Serial string `json:"serial,omitempty"`
	// Warnings are the rules that a listener of it can't evaluate, in words.
	Warnings []string `json:"warnings,omitempty"`
}

// A Port is one endpoint of a member.
type Port struct {
	Service string `json:"service"`
	Port    string `json:"port,omitempty"`
	Addr    string `json:"addr"`
	State   string `json:"state"`
	Zone    string `json:"zone,omitempty"`
}

// A Refusal is a bundle that a member did not take. Version is 0 when it could not be read.
type Refusal struct {
	Version uint64 `json:"version"`
	Reason  string `json:"reason"`
}
