package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/spf13/cobra"
)

func (a *app) caCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Look after the certificate authority's roots",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.caStatusCommand(), a.rotateCommand())
	return cmd
}

func (a *app) caStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the roots that members trust, and how far a rotation is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(func(c *admin.Client) error {
				s, err := c.Authorities(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(cmd, s, func(w io.Writer) error {
					rows := [][]string{{"ROOT", "INTERMEDIATE", "EXPIRES", "SIGNS"}}
					for _, t := range s.Trusted {
						signs := ""
						if t.Active {
							signs = "yes"
						}
						rows = append(rows, []string{t.Root, t.Intermediate[:16], t.Expires.Format(time.RFC3339), signs})
					}
					if err := table(w, rows...); err != nil || s.Rotation == nil {
						return err
					}
					_, err := fmt.Fprintln(w, progress(s))
					return err
				})
			})
		},
	}
}

func (a *app) rotateCommand() *cobra.Command {
	var grace time.Duration
	var root, intermediate, key string
	var abort, leave bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the root, with nobody noticing",
		Long: `Replace the root and the intermediate: add the new root, wait until every member trusts it, issue
certificates by it, wait until every member has one and the last certificate by the old root has expired,
then retire the old root. It waits for any live member that is not that far, and says for which.

The control plane does it by itself, also when it is restarted half-way; this command shows how far
it is until it is done, and can be interrupted and run again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := rotateRequest(cmd, grace, root, intermediate, key)
			if err != nil {
				return inputError{err}
			}
			return a.client(func(c *admin.Client) error {
				ctx := cmd.Context()
				if abort {
					s, err := c.AbortRotation(ctx)
					if err != nil {
						return err
					}
					return a.print(cmd, s, func(w io.Writer) error {
						_, err := fmt.Fprintln(w, "the new root is gone again")
						return err
					})
				}
				s, err := c.Authorities(ctx)
				if err == nil && s.Rotation == nil {
					s, err = c.Rotate(ctx, q)
				}
				if err != nil {
					return err
				}
				if leave {
					return a.print(cmd, s, func(w io.Writer) error {
						_, err := fmt.Fprintln(w, progress(s))
						return err
					})
				}
				return a.followRotation(ctx, cmd, c, s)
			})
		},
	}
	f := cmd.Flags()
	f.DurationVar(&grace, "grace", 0, "trust the old root for this long after all members have new certificates, instead of until the last old one has expired; open connections by old ones are then cut")
	f.StringVar(&root, "root", "", "file of a root that was made elsewhere, PEM, with --intermediate and --key")
	f.StringVar(&intermediate, "intermediate", "", "file of its intermediate")
	f.StringVar(&key, "key", "", "file of the intermediate's key")
	f.BoolVar(&abort, "abort", false, "give up, as long as no certificate is by the new root")
	f.BoolVar(&leave, "no-wait", false, "begin, and leave it to the control plane")
	return cmd
}

func rotateRequest(cmd *cobra.Command, grace time.Duration, root, intermediate, key string) (q admin.Rotate, err error) {
	if cmd.Flags().Changed("grace") {
		q.Grace = &grace
	}
	if root+intermediate+key == "" {
		return q, nil
	}
	if root == "" || intermediate == "" || key == "" {
		return q, errors.New("--root, --intermediate and --key go together")
	}
	for _, f := range []struct {
		to   *string
		name string
	}{{&q.Root, root}, {&q.Intermediate, intermediate}, {&q.Key, key}} {
		data, err := os.ReadFile(f.name)
		if err != nil {
			return q, err
		}
		*f.to = string(data)
	}
	return q, nil
}

// followRotation shows progress until the rotation is done. A control plane that restarts meanwhile is waited for.
func (a *app) followRotation(ctx context.Context, cmd *cobra.Command, c *admin.Client, s admin.Authorities) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	for s.Rotation != nil {
		if line := progress(s); line != last && a.output == "" {
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
				return err
			}
			last = line
		}
		select {
		case <-ctx.Done():
			return errors.New("interrupted; the rotation goes on (mesh ca status)")
		case <-tick.C:
		}
		next, err := c.Authorities(ctx)
		if _, away := errors.AsType[*admin.UnreachableError](err); away {
			continue
		}
		if err != nil {
			return err
		}
		s = next
	}
	return a.print(cmd, s, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "done: members trust %s alone\n", s.Trusted[0].Root)
		return err
	})
}

// progress is one line.
func progress(s admin.Authorities) string {
	r := s.Rotation
	line := fmt.Sprintf("1/3 new root %.16s added: %d of %d members trust it", r.To, r.Ready, r.Members)
	if r.Phase == admin.PhaseIssuing {
		line = fmt.Sprintf("2/3 certificates are by %.16s: %d of %d members have one", r.To, r.Ready, r.Members)
		if !r.RetireAfter.IsZero() && len(r.Waiting) == 0 {
			return fmt.Sprintf("3/3 old root %.16s goes at %s", r.From, r.RetireAfter.Format(time.RFC3339))
		}
	}
	if n := len(r.Waiting); n > 0 {
		line += ", waiting for " + strings.Join(r.Waiting[:min(n, 3)], ", ")
		if more := r.Members - r.Ready - 3; n > 3 && more > 0 {
			line += fmt.Sprintf(" and %d more", more)
		}
	}
	return line
}
