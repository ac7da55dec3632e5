package main

import (
	"fmt"
	"io"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/rulesfile"
	"github.com/intramesh/mesh/policy"
	"github.com/spf13/cobra"
)

func (a *app) lintCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "lint [-f FILE|DIR|-]",
		Short: "Tell what in policies is likely a mistake",
		Long: `Tell what in policies is valid and yet likely a mistake: rules that match nothing, or that a
listener for plain connections can't decide. Without -f it looks at the rules in force; with it no
control plane is needed. Exits with 1 when there is something to tell, and with 4 when the
files are not accepted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := locateDocuments(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if len(files) == 0 {
				if docs, err = a.inForce(cmd); err != nil {
					return err
				}
			}
			found := lint(docs)
			err = a.print(cmd, found, func(w io.Writer) error {
				for _, p := range found {
					if _, err := fmt.Fprintln(w, p); err != nil {
						return err
					}
				}
				return nil
			})
			if err == nil && len(found) > 0 {
				return errDenied
			}
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "a YAML or JSON file, a directory of them, or - for standard input; may be given several times")
	return cmd
}

// inForce returns the documents of the control plane; they have no place.
func (a *app) inForce(cmd *cobra.Command) ([]rulesfile.Document, error) {
	var docs []rulesfile.Document
	err := a.client(func(c *admin.Client) error {
		rules, err := c.Rules(cmd.Context())
		for _, d := range rules.Documents {
			docs = append(docs, rulesfile.Document{Document: d})
		}
		return err
	})
	return docs, err
}

// lint returns the warnings with their places.
func lint(docs []rulesfile.Document) []policy.Problem {
	plain := make([]policy.Document, len(docs))
	byName := make(map[string]*rulesfile.Document)
	for i := range docs {
		plain[i] = docs[i].Document
		byName[docs[i].Metadata.Name] = &docs[i]
	}
	found := []policy.Problem{}
	for _, w := range policy.Lint(plain) {
		p := policy.Problem{Document: w.Document, Field: w.Field, Message: w.Message}
		if d := byName[w.Document]; d != nil {
			p.File = d.File
			p.Line, p.Column = d.Place(w.Field)
		}
		found = append(found, p)
	}
	return found
}
