package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/intramesh/mesh/control/admin"
	"github.com/spf13/cobra"
)

func (a *app) bootstrapCommand() *cobra.Command {
	var service, kubernetes, cert, key string
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Print what a process needs that enrols without a token",
		Long: `Print a value for the environment variable MESH_BOOTSTRAP that holds no secret: where the
control plane is and whom to trust. It is for processes that prove who they are by a Kubernetes service
account or by a certificate (see "enrol" in mesh.yaml), or that have enrolled before.

  mesh bootstrap --kubernetes-token /var/run/secrets/mesh/token`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (cert == "") != (key == "") || cert != "" && kubernetes != "" {
				return inputError{errors.New("want --kubernetes-token, or --cert and --key, or none of them")}
			}
			return a.client(func(c *admin.Client) error {
				b, err := c.Bootstrap(cmd.Context())
				if err != nil {
					return err
				}
				b.Service, b.KubernetesToken, b.CertFile, b.KeyFile = service, kubernetes, cert, key
				return a.print(cmd, map[string]string{"bootstrap": b.Encode()}, func(w io.Writer) error {
					_, err := fmt.Fprintln(w, b.Encode())
					return err
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&service, "service", "", "the service, for processes that do not set Config.Service")
	f.StringVar(&kubernetes, "kubernetes-token", "", "file of the projected service-account token")
	f.StringVar(&cert, "cert", "", "file of the certificate to enrol with, PEM")
	f.StringVar(&key, "key", "", "file of its key, PEM")
	return cmd
}
