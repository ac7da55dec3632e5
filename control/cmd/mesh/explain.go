package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/policy"
	"github.com/spf13/cobra"
)

func (a *app) explainCommand() *cobra.Command {
	var q admin.Question
	cmd := &cobra.Command{
		Use:   "explain FROM TO[:PORT] [METHOD PATH]",
		Short: "Tell whether FROM may call TO, and why",
		Long: `Tell whether the service FROM may call the service TO, by which rule, and what the other rules
made of it. With METHOD and PATH it is about an HTTP request, with --grpc about a gRPC call,
and else about a raw connection. Exits with 1 when it is denied.

  mesh explain orders payments POST /charge
  mesh explain orders payments:ledger
  mesh explain orders payments --grpc pay.v1.Payments/Charge`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 && len(args) != 4 {
				return fmt.Errorf("want FROM and TO, or FROM, TO, METHOD and PATH; got %d arguments", len(args))
			}
			if len(args) == 4 && q.GRPC != "" {
				return fmt.Errorf("METHOD and PATH are for HTTP, --grpc is for gRPC: give one of them")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q.From = args[0]
			q.To, q.Port, _ = strings.Cut(args[1], ":")
			if len(args) == 4 {
				q.Method, q.Path = args[2], args[3]
			}
			return a.client(func(c *admin.Client) error {
				e, err := c.Explain(cmd.Context(), q)
				if err != nil {
					return err
				}
				if err := a.print(cmd, e, func(w io.Writer) error { return printExplanation(w, e) }); err != nil {
					return err
				}
				if e.Decision.Verdict != policy.Allow {
					return errDenied
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&q.GRPC, "grpc", "", "a gRPC method, pay.v1.Payments/Charge")
	return cmd
}

func printExplanation(w io.Writer, e policy.Explanation) error {
	if _, err := fmt.Fprintf(w, "%v\n(rules v%d, decided for: %v)\n", e.Decision, e.Decision.Version, e.Decision.Layer); err != nil {
		return err
	}
	if s := e.Shadow; s != nil {
		if _, err := fmt.Fprintf(w, "With the dry runs enforced: %v\n", s.Verdict); err != nil {
			return err
		}
	}
	if len(e.Policies) == 0 {
		return nil
	}
	rows := [][]string{{"POLICY", "ACTION", "MODE", "RULE", "MATCHES", "WHY"}}
	for _, p := range e.Policies {
		if len(p.Rules) == 0 {
			rows = append(rows, []string{p.Policy, string(p.Action), string(p.Mode), "", "no", "it has no rules"})
		}
		for i, r := range p.Rules {
			matches := "no"
			if r.Matched {
				matches = "yes"
			}
			rows = append(rows, []string{p.Policy, string(p.Action), string(p.Mode), fmt.Sprintf("[%d]", i), matches, r.Why})
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return table(w, rows...)
}
