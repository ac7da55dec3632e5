package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/store"
	"github.com/spf13/cobra"
)

func (a *app) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Back up and restore what the control plane stores",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.saveCommand(), a.restoreCommand())
	return cmd
}

func (a *app) saveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "save FILE",
		Short: "Write rules and their history, tokens, certificates, revocations and the audit log to FILE",
		Long: `Write everything that a running control plane stores, as of one moment, to FILE, which must not exist: rules and
their history, tokens (hashes), issued and revoked certificates, the audit log. The mesh's keys are not in it: they are in the
directory of each control plane, and change when you change them. Back up one of these directories once.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return inputError{err}
			}
			err = a.client(func(c *admin.Client) error { return c.Snapshot(cmd.Context(), f) })
			records := 0
			var info store.SnapshotInfo
			if err == nil {
				if _, err = f.Seek(0, io.SeekStart); err == nil {
					info, err = store.ReadSnapshot(f, func(store.Record) error { records++; return nil })
				}
			}
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				return errors.Join(err, os.Remove(args[0]))
			}
			return a.print(cmd, map[string]any{"file": args[0], "records": records, "at": info.At, "trust_domain": info.TrustDomain}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %d records of mesh %s, %s\n", args[0], records, info.TrustDomain, info.At.Format(time.RFC3339))
				return err
			})
		},
	}
}

func (a *app) restoreCommand() *cobra.Command {
	storeURL := ""
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Fill the empty store of a control plane that does not run",
		Long: `Fill the store of the control plane in --dir from FILE: the file in the directory, which must not be there, or the etcd of
its mesh.yaml (or of --store), below whose prefix there must be nothing. The directory must have the mesh's keys.

The rules get a version number that no member has seen (the seconds since 1970), since a member takes no rules with
a number that it had before.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return inputError{err}
			}
			defer f.Close()
			version, err := control.Restore(cmd.Context(), a.dir, storeURL, f)
			if err != nil {
				return err
			}
			return a.print(cmd, map[string]any{"dir": a.dir, "version": version}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "restored: rules v%d. Start the control plane now: mesh serve --dir %s\n", version, a.dir)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&storeURL, "store", "", "restore into this etcd instead: etcd://HOST:PORT,…/PREFIX?…")
	return cmd
}
