package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"regexp"
)

// A DB holds records: small values by kind and key, changed in atomic commits, each of which has
// a revision that only grows. [Bolt] keeps them in a file for one process, [Etcd] in a cluster for
// several. It is safe for concurrent use; whoever opens it closes it.
//
// Errors are [ErrNotFound], a [*ConflictError], an [*UnavailableError], a [*CorruptError], or about
// the call itself.
type DB interface {
	// Get returns a record as the last acknowledged commit left it, at any replica.
	Get(ctx context.Context, kind, key string) (Record, error)
	// All yields the records of a kind in the order of their keys, all as they were at one
	// moment; the kind "" is all kinds. It ends after the first error. The loop must not commit
	// to this DB.
	All(ctx context.Context, kind string) iter.Seq2[Record, error]
	// Commit does all ops or, when a condition does not hold (a [*ConflictError]) or on
	// another error, none, and returns the revision of what it wrote. When it returns nil the change
	// survives a crash of whatever it is stored on. After an [*UnavailableError] the change may
	// still have been made.
	Commit(ctx context.Context, ops ...Op) (revision uint64, err error)
	// Watch returns a channel that gets a value when records of the kind may have changed, by
	// whichever replica: read them anew. Values that are not taken add up to one. The first comes at once.
	// The channel is never closed; it falls silent when ctx is done or the DB is closed.
	Watch(ctx context.Context, kind string) <-chan struct{}
	// Close releases what the DB holds.
	Close() error
}

// A Record is one value. Nobody modifies Value.
type Record struct {
	Kind, Key string
	Value     []byte
	// Revision is that of the commit which wrote the record.
	Revision uint64
}

// An Op is one part of a commit: it writes a record, deletes it, or only wants it unchanged.
type Op struct {
	// Kind is of lower-case letters, digits, '_' and '-'. Key is of 1 to [MaxKey] bytes.
	Kind, Key string
	// Value replaces the record's; nil deletes the record, if it is there.
	Value []byte
	// If is a condition for the whole commit: the revision that the record has, [Absent] when it
	// must not be there, 0 for any.
	If uint64
	// Check means to check If and to leave the record as it is.
	Check bool
}

// Absent is the condition that a record is not there.
const Absent uint64 = math.MaxUint64

// Limits of one commit, those of an etcd with its default configuration less what is needed around them.
const (
	MaxOps    = 100
	MaxKey    = 512
	MaxCommit = 1 << 20 // bytes of all keys and values
)

var (
	// ErrNotFound says that there is no such record, document or version.
	ErrNotFound = errors.New("not found")
	// errClosed is in what a closed DB answers.
	errClosed = errors.New("the store is closed")
)

// A ConflictError says that a record is not as the commit wanted it: somebody else was first. Read
// it again.
type ConflictError struct{ Kind, Key string }

// Error names the record.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("store: %s %q was changed meanwhile", e.Kind, e.Key)
}

// An UnavailableError says that the store can't be reached or has no quorum. What was to be
// written may or may not have been.
type UnavailableError struct{ Err error }

// Error says so.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("store: etcd does not answer, or has no quorum (a change may or may not have been stored): %v", e.Err)
}

// Unwrap returns Err.
func (e *UnavailableError) Unwrap() error { return e.Err }

var kindForm = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

// checkOps refuses what not every DB can do.
func checkOps(ops []Op) error {
	if len(ops) == 0 || len(ops) > MaxOps {
		return fmt.Errorf("store: %d operations in one commit, want 1 to %d", len(ops), MaxOps)
	}
	size := 0
	seen := make(map[[2]string]bool, len(ops))
	for _, o := range ops {
		if !kindForm.MatchString(o.Kind) {
			return fmt.Errorf("store: kind %q", o.Kind)
		}
		if len(o.Key) == 0 || len(o.Key) > MaxKey {
			return fmt.Errorf("store: %s: a key of %d bytes, want 1 to %d", o.Kind, len(o.Key), MaxKey)
		}
		at := [2]string{o.Kind, o.Key}
		if seen[at] {
			return fmt.Errorf("store: %s %q is twice in one commit", o.Kind, o.Key)
		}
		seen[at] = true
		size += len(o.Kind) + len(o.Key) + len(o.Value)
	}
	if size > MaxCommit {
		return fmt.Errorf("store: a commit of %d bytes, at most %d work", size, MaxCommit)
	}
	return nil
}
