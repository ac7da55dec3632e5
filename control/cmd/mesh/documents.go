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
	all, err := locateDocuments(names, stdin)
	docs := make([]policy.Document, len(all))
	for i, d := range all {
		docs[i] = d.Document
	}
	return docs, err
}

// locateDocuments is readDocuments for who wants to know where they stand.
func locateDocuments(names []string, stdin io.Reader) ([]rulesfile.Document, error) {
	var all []rulesfile.Document
	from := make(map[string]string)
	for _, name := range names {
		files, err := expand(name, ".yaml", ".yml", ".json")
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			name, data, err := readFile(f, stdin)
			if err != nil {
				return nil, err
			}
			docs, err := rulesfile.Load(name, data)
			if err != nil {
				return nil, err
			}
			for _, d := range docs {
				if first, dup := from[d.Metadata.Name]; dup {
					return nil, inputError{fmt.Errorf("%s: the name %q is taken by a document in %s", name, d.Metadata.Name, first)}
				}
				from[d.Metadata.Name] = name
			}
			all = append(all, docs...)
		}
	}
	return all, nil
}

// expand returns the name, or the files in the directory that have one of the extensions.
func expand(name string, extensions ...string) ([]string, error) {
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
		if !e.IsDir() && slices.Contains(extensions, strings.ToLower(filepath.Ext(e.Name()))) {
			files = append(files, filepath.Join(name, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, inputError{fmt.Errorf("directory %s holds no %s file", name, strings.Join(extensions, ", "))}
	}
	return files, nil
}

// readFile reads a file, or standard input for "-". It returns the name to call it by.
func readFile(name string, stdin io.Reader) (string, []byte, error) {
	r := stdin
	if name == "-" {
		name = "<stdin>"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return name, nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, wire.MaxBundleBytes+1))
	if err != nil {
		return name, nil, fmt.Errorf("%s: %w", name, err)
	}
	return name, data, nil
}
