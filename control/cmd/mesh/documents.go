package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/internal/wire"
	"github.com/intramesh/mesh/policy"
)

// readDocuments reads files, the YAML and JSON files of directories, and standard input for "-".
func readDocuments(names []string, stdin io.Reader) ([]policy.Document, error) {
	var all []policy.Document
	from := make(map[string]string)
	for _, name := range names {
		files, err := expand(name)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			r := stdin
			if f == "-" {
				f = "<stdin>"
			} else {
				r = nil
			}
			docs, err := readFile(f, r)
			if err != nil {
				return nil, err
			}
			for _, d := range docs {
				if first, dup := from[d.Metadata.Name]; dup {
					return nil, inputError{fmt.Errorf("%s: the name %q is taken by a document in %s", f, d.Metadata.Name, first)}
				}
				from[d.Metadata.Name] = f
			}
			all = append(all, docs...)
		}
	}
	return all, nil
}

func expand(name string) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	entries, err := os.ReadDir(name) // sorted
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(e.Name()))) {
			files = append(files, filepath.Join(name, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, inputError{fmt.Errorf("directory %s holds no .yaml, .yml or .json file", name)}
	}
	return files, nil
}

// readFile reads r, or the file of that name when r is nil.
func readFile(name string, r io.Reader) ([]policy.Document, error) {
	if r == nil {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, wire.MaxBundleBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return rulesfile.Parse(name, data)
}
