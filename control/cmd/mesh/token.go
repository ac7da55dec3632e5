package main

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/enrol"
	"github.com/spf13/cobra"
)

func (a *app) tokenCommand() *cobra.Command {
	cmd := a.createToken("token SERVICE", cobra.ExactArgs(1), `Print a value for the environment variable MESH_BOOTSTRAP. It holds a token that enrols
processes of SERVICE (one, once, unless --uses says otherwise): treat it as a password.

  MESH_BOOTSTRAP=$(mesh token payments) ./payments
  mesh token 'web-*' --uses 200 --ttl 720h --from 10.20.0.0/16

A process that keeps a state directory (Config.StateDir) uses a token once, not at every restart.`)
	cmd.AddCommand(
		a.createToken("create SERVICE...", cobra.MinimumNArgs(1), `Print a value for the environment variable MESH_BOOTSTRAP, as "mesh token SERVICE" does, for several
services or patterns: a name, "web-*", "*-batch" or "*". A process enrols as the Config.Service that it
sets.`),
		a.listTokens(), a.revokeToken())
	return cmd
}

func (a *app) createToken(use string, count cobra.PositionalArgs, long string) *cobra.Command {
	spec := enrol.Spec{}
	var from []string
	var uses string
	cmd := &cobra.Command{
		Use:   use,
		Short: "Print what lets processes of SERVICE in",
		Long:  long,
		Args:  count,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			spec.Services = args
			if spec.Uses, err = strconv.Atoi(uses); uses == "any" {
				spec.Uses = 0
			} else if err != nil || spec.Uses < 1 {
				return inputError{fmt.Errorf(`--uses %q: want a number from 1, or "any"`, uses)}
			}
			for _, f := range from {
				p, err := network(f)
				if err != nil {
					return inputError{fmt.Errorf("--from: %w", err)}
				}
				spec.From = append(spec.From, p)
			}
			return a.client(func(c *admin.Client) error {
				t, err := c.CreateToken(cmd.Context(), spec)
				if err != nil {
					return err
				}
				out := map[string]any{"services": args, "id": t.Token.ID, "expires": t.Token.Expires, "bootstrap": t.Bootstrap.Encode()}
				if t.Bootstrap.Service != "" {
					out["service"] = t.Bootstrap.Service
				}
				return a.print(cmd, out, func(w io.Writer) error {
					_, err := fmt.Fprintln(w, t.Bootstrap.Encode())
					return err
				})
			})
		},
	}
	f := cmd.Flags()
	f.DurationVar(&spec.Lifetime, "ttl", 0, "how long the token is valid; the default is token_lifetime of mesh.yaml")
	f.StringVar(&uses, "uses", "1", `how many processes it enrols, or "any"`)
	f.StringSliceVar(&from, "from", nil, "networks that it can be used from, as in 10.0.0.0/8; all when there is none")
	return cmd
}

// network reads a prefix, or an address as the network of it alone.
func network(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return ip.Unmap().Prefix(ip.Unmap().BitLen())
	}
	return netip.ParsePrefix(s)
}

func (a *app) listTokens() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens, and what became of them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(func(c *admin.Client) error {
				tokens, err := c.Tokens(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(cmd, tokens, func(w io.Writer) error {
					rows := [][]string{{"ID", "SERVICES", "STATE", "USED", "EXPIRES", "FROM", "LAST"}}
					for _, t := range tokens {
						rows = append(rows, tokenRow(t))
					}
					return table(w, rows...)
				})
			})
		},
	}
}

func tokenRow(t enrol.Token) []string {
	uses := "any"
	if t.Uses > 0 {
		uses = strconv.Itoa(t.Uses)
	}
	from := make([]string, len(t.From))
	for i, p := range t.From {
		from[i] = p.String()
	}
	last := ""
	if n := len(t.Last); n > 0 {
		u := t.Last[n-1]
		last = fmt.Sprintf("%s from %s at %s", u.Service, u.From, u.At.Format(time.RFC3339))
	}
	return []string{
		t.ID, strings.Join(t.Services, ","), t.State(time.Now()), fmt.Sprintf("%d of %s", t.Used, uses),
		t.Expires.Format(time.RFC3339), strings.Join(from, ","), last,
	}
}

func (a *app) revokeToken() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Make a token useless; who it let in stays in",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(func(c *admin.Client) error {
				t, err := c.RevokeToken(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.print(cmd, t, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "token %s is revoked; it was used %d times (see mesh revoke to turn a service out)\n", t.ID, t.Used)
					return err
				})
			})
		},
	}
}
