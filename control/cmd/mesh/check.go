package main

import (
	"fmt"
	"io"

	"github.com/intramesh/mesh/control/policytest"
	"github.com/intramesh/mesh/policy"
	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func (a *app) testCommand() *cobra.Command {
	var tests, rules []string
	var trustDomain string
	cmd := &cobra.Command{
		Use:   "test -f TESTFILE|DIR|- [-r RULES]",
		Short: "Hold policies to expected decisions",
		Long: `Decide requests and compare with what is expected. Without -r it is by the rules in force; with it
no control plane is needed. Exits with 1 when a test fails, and with 4 when the files are not accepted.

A file of tests is a list, YAML or JSON:

  - name: orders may charge
    from: orders            # a service or a SPIFFE ID; left out: a caller whose identity is not known
    to: payments            # SERVICE or SERVICE:PORT
    method: POST            # HTTP: method, path, host, headers
    path: /charge
    headers: {x-tenant: a}  # a list where it comes several times
    expect: allow           # or deny
    policy: payments-callers  # which must have decided; may be left out
  - name: nobody from outside gets in
    from: spiffe://elsewhere.example/orders
    ip: 192.0.2.7
    to: payments:admin
    expect: deny            # neither HTTP nor gRPC: a connection
  - name: admins may refund
    from: shop
    to: payments
    grpc: pay.v1.Payments/Refund
    claims: {role: [admin]} # of a token, which is taken as valid
    expect: allow`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			td, err := spiffeid.TrustDomainFromString(trustDomain)
			if err != nil {
				return inputError{err}
			}
			engine, err := a.engine(cmd, td, rules)
			if err != nil {
				return err
			}
			results, err := runTests(cmd, engine, td, tests)
			if err != nil {
				return err
			}
			failed := 0
			for _, r := range results {
				if !r.Passed {
					failed++
				}
			}
			err = a.print(cmd, results, func(w io.Writer) error { return printTests(w, results, failed) })
			if err == nil && failed > 0 {
				return errDenied
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&tests, "file", "f", nil, "a file of tests, a directory of them, or - for standard input; may be given several times")
	f.StringArrayVarP(&rules, "rules", "r", nil, "a file of policies or a directory of them; may be given several times")
	f.StringVar(&trustDomain, "trust-domain", "mesh.example", "the mesh's; callers that are given by their service are of it")
	if err := cmd.MarkFlagRequired("file"); err != nil {
		panic(err) // the flag is some lines up
	}
	return cmd
}

// engine compiles the rules in files, or without any those in force.
func (a *app) engine(cmd *cobra.Command, td spiffeid.TrustDomain, files []string) (*policy.Engine, error) {
	docs, err := readDocuments(files, cmd.InOrStdin())
	if len(files) == 0 {
		located, err := a.inForce(cmd)
		if err != nil {
			return nil, err
		}
		for _, d := range located {
			docs = append(docs, d.Document)
		}
	}
	if err != nil {
		return nil, err
	}
	return policy.Static(td, docs...)
}

func runTests(cmd *cobra.Command, engine *policy.Engine, td spiffeid.TrustDomain, names []string) ([]policytest.Result, error) {
	results := []policytest.Result{}
	for _, name := range names {
		files, err := expand(name, ".yaml", ".yml", ".json")
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			name, data, err := readFile(f, cmd.InOrStdin())
			if err != nil {
				return nil, err
			}
			cases, err := policytest.Parse(name, data, td)
			if err != nil {
				return nil, err
			}
			results = append(results, policytest.Run(cmd.Context(), engine, cases)...)
		}
	}
	return results, nil
}

func printTests(w io.Writer, results []policytest.Result, failed int) error {
	for _, r := range results {
		if r.Passed {
			continue
		}
		if _, err := fmt.Fprintln(w, r); err != nil {
			return err
		}
		for _, p := range r.Policies {
			for i, rule := range p.Rules {
				why := rule.Why
				if rule.Matched {
					why = "matches"
				}
				if _, err := fmt.Fprintf(w, "    %s[%d] (%s): %s\n", p.Policy, i, p.Action, why); err != nil {
					return err
				}
			}
		}
	}
	_, err := fmt.Fprintf(w, "%d tests, %d failed\n", len(results), failed)
	return err
}
