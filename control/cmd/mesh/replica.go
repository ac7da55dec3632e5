package main

import (
	"fmt"
	"io"

	"github.com/intramesh/mesh/control"
	"github.com/spf13/cobra"
)

func (a *app) replicaCommand() *cobra.Command {
	var advertise string
	var listen control.Listen
	cmd := &cobra.Command{
		Use:   "replica NEWDIR",
		Short: "Make the directory of another control plane on the same etcd",
		Long: `Make NEWDIR, from the directory of a control plane whose store is in etcd (--dir), the directory of another one:
with the same keys and settings, but for how it is reached. It holds the mesh's keys, except the root's: move it to
the other machine by a way that keeps secrets, and run "mesh serve" on it there.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := control.NewReplica(a.dir, args[0], advertise, listen); err != nil {
				return inputError{err}
			}
			return a.print(cmd, map[string]string{"dir": args[0]}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%[1]s is a replica of %[2]s: move it to its machine, and run mesh serve --dir %[1]s there.\n", args[0], a.dir)
				return err
			})
		},
	}
	listenFlags(cmd, &advertise, &listen)
	return cmd
}

// listenFlags are those that say where a control plane is.
func listenFlags(cmd *cobra.Command, advertise *string, listen *control.Listen) {
	f := cmd.Flags()
	f.StringVar(advertise, "advertise", "", "host name or IP address under which members reach the machine (default 127.0.0.1)")
	f.StringVar(&listen.CA, "listen-ca", "", "where the certificate authority listens (default port 7440)")
	f.StringVar(&listen.Mesh, "listen-mesh", "", "where members connect (default port 7441)")
	f.StringVar(&listen.Admin, "listen-admin", "", "where operators from elsewhere connect, such as :7443 (default nowhere)")
	f.StringVar(&listen.Gossip, "listen-gossip", "", "where gossip goes, UDP and TCP (default port 7442)")
}
