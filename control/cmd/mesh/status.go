package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	var wait bool
	timeout := time.Minute
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far the current rules have got",
		Long: `Show how many members enforce the current rules, at all control planes together, and which do not and why. With --wait it
returns when all do, or after --timeout with exit code 1.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(func(c *admin.Client) error {
				if !wait {
					s, err := c.Status(cmd.Context())
					if err != nil {
						return err
					}
					return a.print(cmd, s, func(w io.Writer) error { return printStatus(w, s) })
				}
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				defer cancel()
				s, err := c.Wait(ctx, func(s admin.Status) {
					if a.output == "" {
						_, _ = fmt.Fprintln(cmd.ErrOrStderr(), s) // progress
					}
				})
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					return err
				}
				late := err
				if err := a.print(cmd, s, func(w io.Writer) error { return printStatus(w, s) }); err != nil {
					return err
				}
				if late != nil {
					return errDenied
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "return when all members have the current rules")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait")
	return cmd
}

func printStatus(w io.Writer, s admin.Status) error {
	if _, err := fmt.Fprintln(w, s); err != nil {
		return err
	}
	for _, m := range s.Behind {
		has := "has no rules"
		if m.Rules > 0 {
			has = "has v" + strconv.FormatUint(m.Rules, 10)
		}
		switch {
		case m.Refused != nil:
			has += fmt.Sprintf(", refused v%d: %s", m.Refused.Version, m.Refused.Reason)
		case m.Asked.IsZero():
			has = "does not ask for rules here"
		}
		if _, err := fmt.Fprintf(w, "  %s %s (%s): %s\n", m.Service, m.Instance, m.State, has); err != nil {
			return err
		}
	}
	for _, r := range s.Replicas {
		line := fmt.Sprintf("  control plane %s: v%d, asked by %d members", r.Addr, r.Version, r.Members)
		if r.Problem != "" {
			line = fmt.Sprintf("  control plane %s does not answer: %s", r.Addr, r.Problem)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) auditCommand() *cobra.Command {
	n := 50
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Show the log of changes: who, when, from where, what",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(func(c *admin.Client) error {
				all, err := c.Audit(cmd.Context(), n)
				if err != nil {
					return err
				}
				return a.print(cmd, all, func(w io.Writer) error {
					rows := [][]string{{"TIME", "BY", "FROM", "ACTION", "SUBJECT", "DETAIL"}}
					for _, e := range all {
						rows = append(rows, []string{e.At.UTC().Format(time.RFC3339), e.By.Name, e.By.From, e.Action, e.Subject, e.Detail})
					}
					return table(w, rows...)
				})
			})
		},
	}
	cmd.Flags().IntVarP(&n, "number", "n", n, "how many entries")
	return cmd
}
