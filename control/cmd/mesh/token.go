package main

import (
	"fmt"
	"io"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/spf13/cobra"
)

func (a *app) tokenCommand() *cobra.Command {
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "token SERVICE",
		Short: "Print what lets one process of SERVICE in, once",
		Long: `Print a value for the environment variable MESH_BOOTSTRAP. It holds a token that enrols
one process of SERVICE, once: treat it as a password.

  MESH_BOOTSTRAP=$(mesh token payments) ./payments`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(func(c *admin.Client) error {
				b, err := c.Token(cmd.Context(), args[0], ttl)
				if err != nil {
					return err
				}
				return a.print(cmd, map[string]string{"service": args[0], "bootstrap": b.Encode()}, func(w io.Writer) error {
					_, err := fmt.Fprintln(w, b.Encode())
					return err
				})
			})
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long the unused token is valid; the default is token_lifetime of mesh.yaml")
	return cmd
}
