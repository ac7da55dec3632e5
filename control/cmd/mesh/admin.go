package main

import (
	"fmt"
	"io"
	"os"

	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/admin"
	"github.com/spf13/cobra"
)

func (a *app) adminCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Issue and revoke the certificates of operators who call from elsewhere",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.issueCommand(), a.revokeIdentityCommand())
	return cmd
}

func (a *app) issueCommand() *cobra.Command {
	role, lifetime, file := "viewer", admin.DefaultLifetime, ""
	cmd := &cobra.Command{
		Use:   "issue NAME -f FILE",
		Short: "Write an identity for the operator NAME to FILE",
		Long: `Write a private key, a certificate for NAME and the authority's certificate to FILE, for
"mesh --server https://HOST:PORT --cert FILE". It is signed with the key in the directory of the control plane (--dir), on this
machine. A viewer reads rules and members' state, an editor changes rules too, an admin may do everything.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := admin.ParseRole(role)
			if err != nil {
				return inputError{err}
			}
			identity, serial, err := control.IssueAdmin(a.dir, args[0], r, lifetime)
			if err != nil {
				return inputError{err}
			}
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return inputError{err}
			}
			if _, err := f.Write(identity); err != nil {
				_ = f.Close()
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
			return a.print(cmd, map[string]string{"file": file, "name": args[0], "role": role, "serial": serial}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %s as %s, serial %s\n", file, args[0], role, serial)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&role, "role", role, "viewer, editor or admin")
	cmd.Flags().DurationVar(&lifetime, "lifetime", lifetime, "how long the certificate is valid")
	cmd.Flags().StringVarP(&file, "file", "f", "", "where to write it; it must not exist")
	if err := cmd.MarkFlagRequired("file"); err != nil {
		panic(err) // the flag is one line up
	}
	return cmd
}

func (a *app) revokeIdentityCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke SERIAL",
		Short: "Have an operator's certificate refused",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(func(c *admin.Client) error {
				i, err := c.RevokeIdentity(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(cmd, i, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "revoked: serial %s\n", i.Serial)
					return err
				})
			})
		},
	}
}
