// Package store keeps the mesh's rules: documents by name, and a version that only grows.
package store

import (
	"context"
	"errors"

	"github.com/intramesh/mesh/policy"
)

// Rules are all documents at one moment. They are shared: nobody modifies them.
type Rules struct {
	// Version grows by one with every change; that of an empty new store is 1.
	Version uint64 `json:"version"`
	// Documents are sorted by name.
	Documents []policy.Document `json:"documents"`
}

// A Store keeps rules. It is safe for concurrent use.
type Store interface {
	// Rules returns the current rules, from memory.
	Rules() Rules
	// Changed is closed at the next change; call it again, before Rules, for the one after.
	Changed() <-chan struct{}
	// Apply adds documents, and replaces those of the same name, all or none. When it
	// returns without error the change survives a crash.
	Apply(ctx context.Context, docs []policy.Document) (Result, error)
	// Delete removes documents by name, all or none: [ErrNotFound] is in the error when one
	// is not there.
	Delete(ctx context.Context, names []string) (Result, error)
	// Close releases the store.
	Close() error
}

// A Check has a last look at rules before they are committed; its error refuses the
// change.
type Check func(Rules) error

var (
	// ErrNotFound says that there is no document of that name.
	ErrNotFound = errors.New("not found")
	// ErrInvalid is in the error when the check refused a change.
	ErrInvalid = errors.New("not accepted")
)

// A Change is what became of one document.
type Change string

// What became of a document.
const (
	Created   Change = "created"
	Updated   Change = "updated"
	Unchanged Change = "unchanged"
	Deleted   Change = "deleted"
)

// A Result tells the version after a change, and what became of each document, in the order
// given. When all are unchanged the version is too.
type Result struct {
	Version uint64        `json:"version"`
	Changes []NamedChange `json:"changes"`
}

// A NamedChange is what became of the document Name.
type NamedChange struct {
	Name   string `json:"name"`
	Change Change `json:"change"`
}
