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
	var claims []string
	var token string
	cmd := &cobra.Command{
		Use:   "explain FROM TO[:PORT] [METHOD PATH]",
		Short: "Tell whether FROM may call TO, and why",
		Long: `Tell whether the service FROM may call the service TO, by which rule, and what the other rules
made of it. With METHOD and PATH it is about an HTTP request, with --grpc about a gRPC call,
and else about a raw connection. Exits with 1 when it is denied.

With --claim the request has a token that says so: NAME=VALUE, NAME.SUB=VALUE for a member and
[NAME]=VALUE for a name with dots; the same name again makes a list. With --token the claims
are those of the token in a file ("-" is the standard input). It is verified here, by the issuers
in the rules and the keys that they publish, and goes nowhere else; one that does not hold counts for
nothing, as it does at a member.

  mesh explain orders payments POST /charge
  mesh explain orders payments:ledger
  mesh explain orders payments --grpc pay.v1.Payments/Charge
  mesh explain orders payments POST /charge --claim role=admin --claim groups=a --claim groups=b`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 && len(args) != 4 {
				return fmt.Errorf("want FROM and TO, or FROM, TO, METHOD and PATH; got %d arguments", len(args))
			}
			if len(args) == 4 && q.GRPC != "" {
				return fmt.Errorf("METHOD and PATH are for HTTP, --grpc is for gRPC: give one of them")
			}
			if (len(claims) > 0 || token != "") && len(args) == 2 && q.GRPC == "" {
				return fmt.Errorf("a connection has no token: give METHOD and PATH, or --grpc")
			}
			if len(claims) == 0 {
				return nil
			}
			var err error
			q.Claims, err = parseClaims(claims)
			return err
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q.From = args[0]
			q.To, q.Port, _ = strings.Cut(args[1], ":")
			if len(args) == 4 {
				q.Method, q.Path = args[2], args[3]
			}
			var data []byte
			if token != "" {
				var err error
				if _, data, err = readFile(token, cmd.InOrStdin()); err != nil {
					return err
				}
			}
			return a.client(func(c *admin.Client) error {
				if token != "" {
					rules, err := c.Rules(cmd.Context())
					if err != nil {
						return err
					}
					if q.Claims, err = verifyToken(cmd.Context(), string(data), rules.Documents); err != nil {
						cmd.PrintErrln("the token does not count:", err)
					}
				}
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
	cmd.Flags().StringArrayVar(&claims, "claim", nil, "a claim of the request's token, NAME=VALUE; may be repeated")
	cmd.Flags().StringVar(&token, "token", "", "the file with the request's token, - for the standard input")
	cmd.MarkFlagsMutuallyExclusive("claim", "token")
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
