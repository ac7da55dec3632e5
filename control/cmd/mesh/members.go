package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/intramesh/mesh/control/admin"
	"github.com/spf13/cobra"
)

func (a *app) membersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "members",
		Short: "List the processes in the mesh, and which rules they have",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(func(c *admin.Client) error {
				members, err := c.Members(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(cmd, members, func(w io.Writer) error { return printMembers(w, members) })
			})
		},
	}
}

func printMembers(w io.Writer, members []admin.Member) error {
	rows := [][]string{{"SERVICE", "INSTANCE", "STATE", "ADDRESS", "RULES", "SERVES"}}
	for _, m := range members {
		rules := ""
		if m.Rules > 0 {
			rules = "v" + strconv.FormatUint(m.Rules, 10)
		}
		rows = append(rows, []string{m.Service, m.Instance, m.State, m.Addr, rules, serves(m)})
	}
	if err := table(w, rows...); err != nil {
		return err
	}
	for _, m := range members {
		var notes []string
		if m.Refused != nil {
			notes = append(notes, fmt.Sprintf("refused rules v%d: %s", m.Refused.Version, m.Refused.Reason))
		}
		for _, warning := range m.Warnings {
			notes = append(notes, "can't evaluate "+warning)
		}
		for _, n := range notes {
			if _, err := fmt.Fprintf(w, "\n%s %s %s\n", m.Service, m.Instance, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// serves lists endpoints as "payments:admin 10.0.0.7:8443 (draining)".
func serves(m admin.Member) string {
	var all []string
	for _, p := range m.Ports {
		s := p.Addr
		if p.Port != "" {
			s = p.Port + " " + s
		}
		if p.Service != m.Service {
			s = p.Service + ":" + s
		}
		if p.State != "ready" {
			s += " (" + p.State + ")"
		}
		all = append(all, s)
	}
	return strings.Join(all, ", ")
}
