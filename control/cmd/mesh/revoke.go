package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/spf13/cobra"
)

func (a *app) revokeCommand() *cobra.Command {
	var q admin.Revoke
	var list bool
	var undo string
	cmd := &cobra.Command{
		Use:   "revoke SERVICE|INSTANCE|SERIAL",
		Short: "Take trust away from certificates before they expire",
		Long: `Revoke every certificate that a service has until now, that of one instance (see "mesh
members"), or one by its serial number. Members refuse it in both directions and cut its open
connections as soon as they have the next version of the rules; the certificate authority does not
renew it. Who is turned out can enrol again with a proof that still counts: a new token, a service
account. --block keeps anybody from enrolling as the service.

  mesh revoke payments --block --reason "key leaked"
  mesh revoke --list
  mesh revoke --undo "service payments"`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch given := len(args) + min(1, len(q.Service)) + min(1, len(q.Instance)) + min(1, len(q.Serial)) + min(1, len(undo)); {
			case list && given == 0:
				return a.listRevocations(cmd)
			case list || given != 1:
				return inputError{errors.New("want one of a service, an instance, a serial number, --list and --undo")}
			}
			return a.client(func(c *admin.Client) (err error) {
				var r admin.Revoked
				what := "revoked"
				if undo != "" {
					what = "taken back"
					r, err = c.Unrevoke(cmd.Context(), undo)
				} else {
					if len(args) == 1 {
						q.Target = args[0]
					}
					r, err = c.Revoke(cmd.Context(), q)
				}
				if err != nil {
					return err
				}
				return a.print(cmd, r, func(w io.Writer) error {
					for _, v := range r.Revocations {
						if _, err := fmt.Fprintf(w, "%s  %s\n", what, describe(v)); err != nil {
							return err
						}
					}
					_, err := fmt.Fprintf(w, "rules v%d\n", r.Version)
					return err
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Service, "service", "", "a service, also one that is named like something else")
	f.StringVar(&q.Instance, "instance", "", "a member, by its name in the pool")
	f.StringVar(&q.Serial, "serial", "", "a certificate, by its serial number in hexadecimal or decimal")
	f.BoolVar(&q.Block, "block", false, "keep anybody from enrolling as the service until it is taken back")
	f.StringVar(&q.Reason, "reason", "", "for people; members tell it to whom they refuse")
	f.BoolVar(&list, "list", false, "list what is revoked")
	f.StringVar(&undo, "undo", "", "take back what --list shows under this name")
	return cmd
}

// describe is one line about a revocation.
func describe(v admin.Revocation) string {
	s := v.Name
	switch {
	case v.ID != "":
		s += ": certificates issued until " + v.At.Format(time.RFC3339)
	case v.Name != "serial "+v.Serial:
		s += ": serial " + v.Serial
	}
	if v.Block {
		s += ", and nobody can enrol"
	}
	return s
}

func (a *app) listRevocations(cmd *cobra.Command) error {
	return a.client(func(c *admin.Client) error {
		all, err := c.Revocations(cmd.Context())
		if err != nil {
			return err
		}
		return a.print(cmd, all, func(w io.Writer) error {
			rows := [][]string{{"NAME", "WHAT", "SINCE", "UNTIL", "BY", "REASON"}}
			for _, v := range all {
				what, until := "serial "+v.Serial, v.Expires.Format(time.RFC3339)
				if v.ID != "" {
					what = "all until then"
				}
				if v.Block {
					what, until = "all, and new ones", "taken back"
				}
				rows = append(rows, []string{v.Name, what, v.At.Format(time.RFC3339), until, v.By.Name, v.Reason})
			}
			return table(w, rows...)
		})
	})
}
