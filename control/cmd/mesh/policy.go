package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/policyimport"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
	"github.com/spf13/cobra"
)

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Change and show the rules",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.applyCommand(), a.getCommand(), a.listCommand(), a.deleteCommand(), a.diffCommand(), a.historyCommand(), a.rollbackCommand(), a.lintCommand(), a.testCommand(), a.importCommand())
	return cmd
}

func (a *app) applyCommand() *cobra.Command {
	var files []string
	var o admin.ApplyOptions
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Add policies, and replace those of the same name: all or none",
		Args:  cobra.NoArgs,
	}
	base := baseFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		docs, err := readDocuments(files, cmd.InOrStdin())
		if err != nil {
			return err
		}
		if o.Base, err = base(); err != nil {
			return err
		}
		return a.client(func(c *admin.Client) error {
			r, err := c.Apply(cmd.Context(), docs, o)
			return a.printResult(cmd, r, err)
		})
	}
	cmd.Flags().BoolVar(&o.Replace, "replace", false, "delete the policies that are not in the files")
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "a YAML or JSON file, a directory of them, or - for standard input; may be given several times")
	if err := cmd.MarkFlagRequired("file"); err != nil {
		panic(err) // the flag is one line up
	}
	return cmd
}

func (a *app) deleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete NAME...",
		Short: "Remove policies: all or none",
		Args:  cobra.MinimumNArgs(1),
	}
	base := baseFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, err := base()
		if err != nil {
			return err
		}
		return a.client(func(c *admin.Client) error {
			r, err := c.Delete(cmd.Context(), args, from)
			return a.printResult(cmd, r, err)
		})
	}
	return cmd
}

func (a *app) printResult(cmd *cobra.Command, r store.Result, err error) error {
	if err != nil {
		return err
	}
	return a.print(cmd, r, func(w io.Writer) error {
		var rows [][]string
		for _, c := range r.Changes {
			rows = append(rows, []string{c.Name, string(c.Change)})
		}
		if err := table(w, rows...); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "rules v%d\n", r.Version)
		return err
	})
}

func (a *app) getCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "get NAME",
		Short: "Print a policy, as YAML or with -o json as JSON",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(func(c *admin.Client) error {
				rules, err := c.Rules(cmd.Context())
				if err != nil {
					return err
				}
				for _, d := range rules.Documents {
					if d.Metadata.Name == args[0] {
						return a.print(cmd, d, func(w io.Writer) error { return printYAML(w, d) })
					}
				}
				return inputError{fmt.Errorf("policy %q: not found", args[0])}
			})
		},
	}
}

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the policies",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(func(c *admin.Client) error {
				rules, err := c.Rules(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(cmd, rules, func(w io.Writer) error {
					rows := [][]string{{"NAME", "SERVICE", "ACTION", "MODE", "RULES"}}
					for _, d := range rules.Documents {
						rows = append(rows, append([]string{d.Metadata.Name}, summary(d)...))
					}
					if err := table(w, rows...); err != nil {
						return err
					}
					_, err := fmt.Fprintf(w, "rules v%d\n", rules.Version)
					return err
				})
			})
		},
	}
}

// summary is a document's line in the list, without its name.
func summary(d policy.Document) []string {
	switch {
	case d.Default != nil:
		var says []string
		if d.Default.Verdict != "" {
			says = append(says, string(d.Default.Verdict)+" by default")
		}
		if d.Default.Denials != "" {
			says = append(says, string(d.Default.Denials)+" denials")
		}
		return []string{d.Default.Service, strings.Join(says, ", "), "", ""}
	case d.TokenIssuer != nil:
		return []string{"", "tokens of " + d.TokenIssuer.Issuer, "", ""}
	}
	mode := d.Spec.Mode
	if mode == "" {
		mode = policy.ModeEnforce
	}
	return []string{d.Spec.Service, string(d.Spec.Action), string(mode), strconv.Itoa(len(d.Spec.Rules))}
}

// printYAML writes a document in the order of its fields, by way of JSON, which YAML contains.
func printYAML(w io.Writer, d policy.Document) error {
	data, err := json.Marshal(d)
	if err != nil {
		return err
	}
	out, err := policyimport.YAML(data)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, bytes.NewReader(out))
	return err
}
