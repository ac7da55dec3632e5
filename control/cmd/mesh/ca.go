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
	"github.com/intramesh/mesh/control/ca"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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
						rows = append(rows, []string{t.Root, t.Intermediate[:min(16, len(t.Intermediate))], t.Expires.Format(time.RFC3339), signs})
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
	var from brought
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
			q, err := rotateRequest(cmd, grace, from)
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
	from.flags(f)
	f.BoolVar(&abort, "abort", false, "give up, as long as no certificate is by the new root")
	f.BoolVar(&leave, "no-wait", false, "begin, and leave it to the control plane")
	return cmd
}

func rotateRequest(cmd *cobra.Command, grace time.Duration, from brought) (q admin.Rotate, err error) {
	if cmd.Flags().Changed("grace") {
		q.Grace = &grace
	}
	b, err := from.read()
	if err == nil && b != nil {
		q.Root, q.Intermediate, q.Key, q.KeyURI = string(b.Root), string(b.Intermediate), string(b.Key), b.KeyURI
	}
	return q, err
}

// brought are the flags for authorities that were made elsewhere.
type brought struct{ root, intermediate, key, keyURI string }

func (b *brought) flags(f *pflag.FlagSet) {
	f.StringVar(&b.root, "root", "", "file of a root that was made elsewhere, PEM, with --intermediate and --key or --key-uri")
	f.StringVar(&b.intermediate, "intermediate", "", "file of its intermediate, which is constrained to URIs of the trust domain")
	f.StringVar(&b.key, "key", "", "file of the intermediate's key")
	f.StringVar(&b.keyURI, "key-uri", "", `the intermediate's key in a KMS, as smallstep's tools name it: "softkms:/path"`)
}

// read returns nil when no flag was given.
func (b *brought) read() (*ca.Brought, error) {
	if *b == (brought{}) {
		return nil, nil
	}
	if b.root == "" || b.intermediate == "" || (b.key == "") == (b.keyURI == "") {
		return nil, errors.New("--root, --intermediate and one of --key and --key-uri go together")
	}
	out := &ca.Brought{KeyURI: b.keyURI}
	for name, to := range map[string]*[]byte{b.root: &out.Root, b.intermediate: &out.Intermediate, b.key: &out.Key} {
		if name == "" {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		*to = data
	}
	return out, nil
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
