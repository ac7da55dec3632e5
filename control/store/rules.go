package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/intramesh/mesh/policy"
)

// Rules are all documents at one moment. They are shared: nobody modifies them.
type Rules struct {
	// Version grows with every change; that of an empty new store is 1.
	Version uint64 `json:"version"`
	// At is when this version was made, the same at every replica.
	At time.Time `json:"at"`
	// Documents are sorted by name.
	Documents []policy.Document `json:"documents"`
	// Attached is what else members get with this version, by what it is: see [Edit].
	Attached map[string]json.RawMessage `json:"attached,omitempty"`
}

// An Edit is a change of the rules. Documents are put and deleted all or none.
type Edit struct {
	// Base is the version that the change was made from: when it is not the current one any more, a
	// [*StaleError] says what changed since. 0 means whatever is current.
	Base uint64
	// Put adds documents, and replaces those of the same name.
	Put []policy.Document
	// Delete removes documents by name: [ErrNotFound] is in the error when one is not there.
	Delete []string
	// Replace removes all documents that are not in Put.
	Replace bool
	// Attach sets what is attached by name; a nil value removes it.
	Attach map[string]json.RawMessage
	// Action says what this is, in the history and the audit log: "apply".
	Action string
	// Also is committed together with the change, or alone when nothing changes.
	Also []Op
}

// A Check has a last look at rules before they are committed; its error refuses the
// change.
type Check func(Rules) error

// ErrInvalid is in the error when the check refused a change.
var ErrInvalid = errors.New("not accepted")

// A StaleError refuses a change that was made from a version which is not the current one.
type StaleError struct {
	Base, Current uint64
	// Since are the versions after Base, the newest first, as far as the history goes back.
	Since []Version
}

// Error says what changed since.
func (e *StaleError) Error() string {
	var since strings.Builder
	for _, v := range e.Since {
		since.WriteString("; " + v.String())
	}
	return fmt.Sprintf("store: the change was made from v%d, and v%d is current%s", e.Base, e.Current, since.String())
}

// A Change is what became of one document.
type Change string

// What became of a document.
const (
	Created   Change = "created"
	Updated   Change = "updated"
	Unchanged Change = "unchanged"
	Deleted   Change = "deleted"
)

// A Result tells the version after a change, and what became of each document: first those put, in the order
// given, then those deleted. When all are unchanged the version is too.
type Result struct {
	Version uint64        `json:"version"`
	Changes []NamedChange `json:"changes"`
}

// A NamedChange is what became of the document Name.
type NamedChange struct {
	Name   string `json:"name"`
	Change Change `json:"change"`
}

// maxListed bounds the changes that a version lists.
const maxListed = 100

// A Version is one in the history.
type Version struct {
	Version uint64    `json:"version"`
	At      time.Time `json:"at"`
	By      Actor     `json:"by"`
	// Action is "apply", "delete", "rollback to v7".
	Action string `json:"action"`
	// Changes lists the first 100 documents that changed; More is how many there were beyond.
	Changes []NamedChange `json:"changes,omitempty"`
	More    int           `json:"more,omitempty"`
}

// String is one line.
func (v Version) String() string {
	by := ""
	if v.By.Name != "" {
		by = " by " + v.By.Name
	}
	var changes strings.Builder
	for _, c := range v.Changes[:min(len(v.Changes), 3)] {
		changes.WriteString(" " + c.Name + " " + string(c.Change))
	}
	if more := len(v.Changes) - 3 + v.More; more > 0 {
		fmt.Fprintf(&changes, ", and %d more", more)
	}
	return fmt.Sprintf("v%d%s at %s: %s%s", v.Version, by, v.At.UTC().Format(time.RFC3339), v.Action, changes.String())
}

// apply returns the rules after an edit, and what it changed.
func (e Edit) apply(now Rules) (next Rules, changes []NamedChange, err error) {
	next = Rules{Version: now.Version + 1, At: timestamp(), Attached: attach(now.Attached, e.Attach)}
	docs := make(map[string]policy.Document, len(now.Documents)+len(e.Put))
	for _, d := range now.Documents {
		docs[d.Metadata.Name] = d
	}
	put := make(map[string]bool, len(e.Put))
	for _, d := range e.Put {
		name := d.Metadata.Name
		old, exists := docs[name]
		change := Created
		if exists {
			change = Updated
			if same, err := equal(old, d); err != nil {
				return next, nil, err
			} else if same {
				change = Unchanged
			}
		}
		changes = append(changes, NamedChange{name, change})
		docs[name], put[name] = d, true
	}
	gone := e.Delete
	if e.Replace {
		for _, d := range now.Documents {
			if name := d.Metadata.Name; !put[name] && !slices.Contains(e.Delete, name) {
				gone = append(slices.Clip(gone), name)
			}
		}
	}
	for _, name := range gone {
		if _, exists := docs[name]; !exists {
			return next, nil, fmt.Errorf("store: policy %q: %w", name, ErrNotFound)
		}
		delete(docs, name)
		changes = append(changes, NamedChange{name, Deleted})
	}
	for _, d := range docs {
		next.Documents = append(next.Documents, d)
	}
	slices.SortFunc(next.Documents, func(a, b policy.Document) int {
		return strings.Compare(a.Metadata.Name, b.Metadata.Name)
	})
	return next, changes, nil
}

// timestamp is now as it reads from the store.
func timestamp() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func equal(a, b policy.Document) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	y, err := json.Marshal(b)
	return string(x) == string(y), err
}

func attach(now, change map[string]json.RawMessage) map[string]json.RawMessage {
	if len(change) == 0 {
		return now
	}
	next := maps.Clone(now)
	if next == nil {
		next = make(map[string]json.RawMessage, len(change))
	}
	for name, v := range change {
		if v == nil {
			delete(next, name)
		} else {
			next[name] = v
		}
	}
	return next
}

// changed reports whether a version after an edit differs from the one before.
func changed(now, next Rules, changes []NamedChange) bool {
	return slices.ContainsFunc(changes, func(c NamedChange) bool { return c.Change != Unchanged }) ||
		!maps.EqualFunc(now.Attached, next.Attached, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })
}
