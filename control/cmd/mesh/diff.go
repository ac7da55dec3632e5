package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
)

// A docDiff is how one document differs, in lines that begin with "-", "+" or " ".
type docDiff struct {
	Name   string       `json:"name"`
	Change store.Change `json:"change"`
	Lines  []string     `json:"lines"`
}

// difference returns the documents that differ, by name.
func difference(before, after []policy.Document) ([]docDiff, error) {
	old, err := texts(before)
	if err != nil {
		return nil, err
	}
	now, err := texts(after)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(old)
	maps.Copy(all, now)
	d := []docDiff{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		from, had := old[name]
		to, has := now[name]
		change := store.Updated
		switch {
		case had && has && slices.Equal(from, to):
			continue
		case !had:
			change = store.Created
		case !has:
			change = store.Deleted
		}
		d = append(d, docDiff{name, change, lineDiff(from, to)})
	}
	return d, nil
}

// texts are the lines of documents as YAML, by name.
func texts(docs []policy.Document) (map[string][]string, error) {
	all := make(map[string][]string, len(docs))
	for _, d := range docs {
		var b bytes.Buffer
		if err := printYAML(&b, d); err != nil {
			return nil, err
		}
		all[d.Metadata.Name] = strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	}
	return all, nil
}

// lineDiff is by the longest common subsequence; documents are short.
func lineDiff(a, b []string) []string {
	const most = 2000 // lines of each: beyond, all of the old and all of the new
	if len(a) > most || len(b) > most {
		return append(prefixed("-", a), prefixed("+", b)...)
	}
	common := make([][]int, len(a)+1) // of a[i:] and b[j:]
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i, line := range slices.Backward(a) {
		for j, other := range slices.Backward(b) {
			if line == other {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var d []string
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			d = append(d, " "+a[i])
			i, j = i+1, j+1
		case common[i+1][j] >= common[i][j+1]:
			d = append(d, "-"+a[i])
			i++
		default:
			d = append(d, "+"+b[j])
			j++
		}
	}
	return append(append(d, prefixed("-", a[i:])...), prefixed("+", b[j:])...)
}

func prefixed(mark string, lines []string) (all []string) {
	for _, l := range lines {
		all = append(all, mark+l)
	}
	return all
}

func printDiff(w io.Writer, base uint64, d []docDiff) error {
	for _, doc := range d {
		if _, err := fmt.Fprintf(w, "%s %s\n%s\n\n", doc.Name, doc.Change, strings.Join(doc.Lines, "\n")); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d documents differ from v%d\n", len(d), base)
	return err
}
