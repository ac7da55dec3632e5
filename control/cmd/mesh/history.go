package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/store"
	"github.com/intramesh/mesh/policy"
	"github.com/spf13/cobra"
)

// versionNumber reads "v42" or "42".
func versionNumber(text string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "v"), 10, 64)
	if err != nil || n == 0 {
		return 0, inputError{fmt.Errorf("version %q: want a number, such as v42", text)}
	}
	return n, nil
}

// baseFlag is the version that a change was made from.
func baseFlag(cmd *cobra.Command) func() (uint64, error) {
	base := cmd.Flags().String("base", "", `the version that the change was made from, such as v42 ("mesh policy list" shows it): when others changed the rules since, it is refused and you are told what changed`)
	return func() (uint64, error) {
		if *base == "" {
			return 0, nil
		}
		return versionNumber(*base)
	}
}

func (a *app) historyCommand() *cobra.Command {
	n := 20
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the versions of the rules: who changed what, when, from where",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(func(c *admin.Client) error {
				all, err := c.History(cmd.Context(), n)
				if err != nil {
					return err
				}
				return a.print(cmd, all, func(w io.Writer) error {
					rows := [][]string{{"VERSION", "TIME", "BY", "FROM", "ACTION", "CHANGES"}}
					for _, v := range all {
						rows = append(rows, []string{fmt.Sprint("v", v.Version), v.At.UTC().Format(time.RFC3339), v.By.Name, v.By.From, v.Action, changes(v)})
					}
					return table(w, rows...)
				})
			})
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", n, "how many versions")
	return cmd
}

// changes is what a version changed, in a cell.
func changes(v store.Version) string {
	const shown = 4
	var all []string
	for _, c := range v.Changes[:min(len(v.Changes), shown)] {
		all = append(all, c.Name+" "+string(c.Change))
	}
	if more := len(v.Changes) - shown + v.More; more > 0 {
		all = append(all, fmt.Sprintf("%d more", more))
	}
	return strings.Join(all, ", ")
}

func (a *app) rollbackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback VERSION",
		Short: "Make the documents of an earlier version current again, as a new version",
		Args:  cobra.ExactArgs(1),
	}
	base := baseFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		to, err := versionNumber(args[0])
		if err != nil {
			return err
		}
		from, err := base()
		if err != nil {
			return err
		}
		return a.client(func(c *admin.Client) error {
			r, err := c.Rollback(cmd.Context(), to, from)
			return a.printResult(cmd, r, err)
		})
	}
	return cmd
}

func (a *app) diffCommand() *cobra.Command {
	var files []string
	var replace bool
	cmd := &cobra.Command{
		Use:   "diff {-f FILE|DIR|- | VERSION [VERSION]}",
		Short: "Show what applying files would change, or what changed between versions",
		Long: `Show what "policy apply" of the files would change in the rules in force; or with one version, how the rules in
force differ from it; or with two, how the second differs from the first. It exits with 1 when there is a difference.`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(files) > 0) == (len(args) > 0) {
				return inputError{fmt.Errorf("want either -f or a version")}
			}
			docs, err := readDocuments(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			return a.client(func(c *admin.Client) error {
				before, after, err := diffSides(cmd.Context(), c, args)
				if err != nil {
					return err
				}
				if len(args) == 0 {
					after.Documents = applied(before.Documents, docs, replace)
				}
				d, err := difference(before.Documents, after.Documents)
				if err != nil {
					return err
				}
				err = a.print(cmd, map[string]any{"base": before.Version, "changes": d}, func(w io.Writer) error { return printDiff(w, before.Version, d) })
				if err == nil && len(d) > 0 {
					err = errDenied
				}
				return err
			})
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "a YAML or JSON file, a directory of them, or - for standard input; may be given several times")
	cmd.Flags().BoolVar(&replace, "replace", false, "as if documents that are not in the files were deleted")
	return cmd
}

// diffSides are the rules of the versions in args; where there is none, those in force.
func diffSides(ctx context.Context, c *admin.Client, args []string) (before, after store.Rules, err error) {
	sides := [2]*store.Rules{&before, &after}
	for i, side := range sides {
		if i < len(args) {
			n, err := versionNumber(args[i])
			if err != nil {
				return before, after, err
			}
			if *side, err = c.Version(ctx, n); err != nil {
				return before, after, err
			}
		} else if *side, err = c.Rules(ctx); err != nil {
			return before, after, err
		}
	}
	return before, after, nil
}

// applied is what documents are after an apply.
func applied(now, put []policy.Document, replace bool) []policy.Document {
	names := make(map[string]bool, len(put))
	for _, d := range put {
		names[d.Metadata.Name] = true
	}
	after := append([]policy.Document{}, put...)
	for _, d := range now {
		if !names[d.Metadata.Name] && !replace {
			after = append(after, d)
		}
	}
	return after
}
