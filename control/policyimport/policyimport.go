// Package policyimport translates the authorization rules of other meshes into ours.
//
// Nothing is widened: whatever the result allows, the source allows. Where our rules can't say what the source
// says, an allow gets narrower and a deny broader, and a [Note] tells which line and why. A deny that can't be said
// at all has no safe translation; its Note has Widens set, and the result must not be used unless a person
// agrees to each of them.
//
// Both sides are compared on requests as a mesh of ours delivers them: canonical paths, hosts without port, callers
// with a certificate.
package policyimport

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A File is an input and its name, for notes and errors.
type File struct {
	Name string
	Data []byte
}

// A Place is where something stands in a file. Line and Column count from 1; 0 is unknown.
type Place struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// String returns "file:line", without what is not known.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// A Note says what of the source could not be carried over, and what became of it.
type Note struct {
	Place
	// Document is the name of the document that it is about, "" when none was made.
	Document string `json:"document,omitempty"`
	Message  string `json:"message"`
	// Widens says that something which the source denies may be allowed without it.
	Widens bool `json:"widens,omitempty"`
}

// String returns "file:line: message".
func (n Note) String() string {
	s := n.Place.String() + ": " + n.Message
	if n.Widens {
		s += "; without it, more may be allowed"
	}
	return s
}

// A Document is one that was made, and the place in the source that it comes from.
type Document struct {
	policy.Document
	Origin Place
}

// A Result is what became of the files.
type Result struct {
	Documents []Document `json:"documents"`
	// Notes are in the order of the source.
	Notes []Note `json:"notes"`
}

// Widens reports whether a note says that something of the source is lost that denied.
func (r *Result) Widens() bool {
	return slices.ContainsFunc(r.Notes, func(n Note) bool { return n.Widens })
}

// importer collects what becomes of the files.
type importer struct {
	Result
	order map[string]int // of the files
	names map[string]bool
	td    spiffeid.TrustDomain
}

func newImporter(files []File) (*importer, error) {
	td, err := spiffeid.TrustDomainFromString("import.invalid") // stands for the mesh's own
	if err != nil {
		return nil, err
	}
	im := &importer{order: make(map[string]int), names: make(map[string]bool), td: td}
	for i, f := range files {
		im.order[f.Name] = i
	}
	return im, nil
}

// nodes reads a file and refuses duplicate keys, which readers of the source may take either way.
func nodes(f File, read func(name string, data []byte) ([]*policy.Node, error), fold bool) ([]*policy.Node, error) {
	list, err := read(f.Name, f.Data)
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		if err := checkDuplicates(f.Name, n, fold); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func readYAML(name string, data []byte) ([]*policy.Node, error) { return rulesfile.Nodes(name, data) }

// valid reports whether an engine takes the rule.
func (im *importer) valid(r policy.Rule) error {
	return im.compile(policy.Spec{Service: "any", Action: policy.ActionAllow, Rules: []policy.Rule{r}})
}

// validService reports whether a service can have the name.
func (im *importer) validService(name string) error {
	return im.compile(policy.Spec{Service: name, Action: policy.ActionAllow})
}

func (im *importer) compile(s policy.Spec) error {
	_, err := policy.Static(im.td, document("any", s))
	return im.problem(err)
}

// problem is the first of what an engine says.
func (im *importer) problem(err error) error {
	if e, ok := err.(*policy.ParseError); ok { //nolint:errorlint // Static promises it unwrapped
		msg := e.Problems[0].Message
		if _, after, ok := strings.Cut(msg, "\": "); ok && msg[0] == '"' { // the value is in the note
			msg = after
		}
		return errors.New(msg)
	}
	return err
}

func document(name string, s policy.Spec) policy.Document {
	return policy.Document{APIVersion: policy.APIVersion, Kind: policy.Kind, Metadata: policy.Metadata{Name: name}, Spec: s}
}

const maxName = 128 // of a document

// add keeps a document under a name that is made of the one given.
func (im *importer) add(name, source string, s policy.Spec, origin Place) {
	d := document(name, s)
	d.Metadata.Labels = map[string]string{"imported-from": source}
	im.Documents = append(im.Documents, Document{d, origin})
}

// name makes a document's name that is not taken.
func (im *importer) name(parts ...string) string {
	base := strings.ToLower(strings.Join(parts, "."))
	base = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '-'
	}, base)
	base = base[:min(len(base), maxName-8)]
	name := base
	for i := 2; im.names[name]; i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	im.names[name] = true
	return name
}

// done checks the whole and sorts the notes.
func (im *importer) done() (*Result, error) {
	docs := make([]policy.Document, len(im.Documents))
	for i, d := range im.Documents {
		docs[i] = d.Document
	}
	if _, err := policy.Static(im.td, docs...); err != nil {
		return nil, fmt.Errorf("policyimport: the translation is not accepted: %w", err)
	}
	slices.SortStableFunc(im.Notes, func(a, b Note) int {
		return cmp.Or(cmp.Compare(im.order[a.File], im.order[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	im.Notes = slices.Compact(im.Notes)
	return &im.Result, nil
}
