package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	member "github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control/meshdns"
	"github.com/spf13/cobra"
)

func (a *app) dnsCommand() *cobra.Command {
	cfg := meshdns.Config{Addr: netip.MustParseAddrPort("127.0.0.1:5353")}
	level := slog.LevelInfo
	state := ""
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Answer DNS queries about services, for programs outside of the mesh",
		Long: `Join the mesh by MESH_BOOTSTRAP (from "mesh token dns") and answer DNS queries until SIGINT or SIGTERM:
"payments.mesh." has the addresses of payments as A and AAAA records, and its ports as SRV; a port "admin" is
"_admin._tcp.payments.mesh.", the service billing/invoices "billing.invoices.mesh.". Other names are refused.

Who connects by these addresses is still asked for a certificate of the mesh, and should check the service's.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			b, err := member.BootstrapFromEnv()
			if err != nil {
				return inputError{err}
			}
			m, err := member.Join(cmd.Context(), member.Config{Bootstrap: b, StateDir: state, Logger: log})
			if err != nil {
				return err
			}
			cfg.Discovery, cfg.Logger = m.Discovery(), log
			s, err := meshdns.Listen(cmd.Context(), cfg)
			if err != nil {
				return errors.Join(err, m.Close())
			}
			err = a.print(cmd, map[string]string{"dns": s.Addr().String()}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "DNS for mesh %s at %s\n", b.TrustDomain, s.Addr())
				return err
			})
			if err != nil {
				log.Warn("could not tell that DNS is ready", "error", err)
			}
			<-cmd.Context().Done()
			return errors.Join(s.Close(), m.Close())
		},
	}
	f := cmd.Flags()
	f.TextVar(&cfg.Addr, "listen", cfg.Addr, "IP address and port, for UDP and TCP")
	f.StringVar(&cfg.Zone, "zone", "mesh", "domain of the names")
	f.DurationVar(&cfg.TTL, "ttl", 5*time.Second, "how long answers count")
	f.IntVar(&cfg.Rate, "rate", 200, "answers a second over UDP to a network of clients; whoever asks more is told to use TCP")
	f.StringVar(&state, "state", "", "where to keep the certificate, for a restart without a new token")
	f.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return cmd
}
