package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/intramesh/mesh/control/admin"
	"github.com/spf13/cobra"
)

func (a *app) keyringCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keyring",
		Short: "Change the key that gossip is encrypted with",
		Long: `Change the key that gossip is encrypted with, while the mesh runs and without loss:

  mesh keyring install       # prints the new key's name; members get it within a second
  mesh keyring list          # until no member misses it
  mesh keyring use KEY       # members encrypt with it
  mesh keyring remove OLD    # members forget the old one

"use" and "remove" refuse to go ahead of the members. Who is away meanwhile gets the keys when it is back.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.listKeys(), a.installKey(),
		a.changeKey("use KEY", "Have all members encrypt with KEY", (*admin.Client).UseKey),
		a.changeKey("remove KEY", "Have all members forget KEY", (*admin.Client).RemoveKey))
	return cmd
}

func (a *app) listKeys() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys, and how many members have them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(func(c *admin.Client) error {
				keys, err := c.Keys(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(cmd, keys, func(w io.Writer) error { return printKeys(w, keys) })
			})
		},
	}
}

func printKeys(w io.Writer, keys []admin.Key) error {
	rows := [][]string{{"KEY", "USE", "MEMBERS", "ENCRYPTING", "MISSING"}}
	for _, k := range keys {
		use := "decrypts"
		if k.Encrypts {
			use = "encrypts"
		}
		rows = append(rows, []string{k.ID, use, strconv.Itoa(k.Members), strconv.Itoa(k.Encrypting), strconv.Itoa(len(k.Missing))})
	}
	if err := table(w, rows...); err != nil {
		return err
	}
	for _, k := range keys {
		for _, m := range k.Missing {
			if _, err := fmt.Fprintf(w, "\n%s does not have %s yet\n", m, k.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) installKey() *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Make a key and hand it to all members, to decrypt with",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(func(c *admin.Client) error {
				k, err := c.InstallKey(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(cmd, k, func(w io.Writer) error {
					_, err := fmt.Fprintln(w, k.ID)
					return err
				})
			})
		},
	}
}

func (a *app) changeKey(use, short string, change func(*admin.Client, context.Context, string, bool) error) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(func(c *admin.Client) error { return change(c, cmd.Context(), args[0], force) })
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "though members have not followed yet: they are cut off until they ask the control plane")
	return cmd
}
