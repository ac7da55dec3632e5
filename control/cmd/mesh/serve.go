package main

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/ca"
	"github.com/spf13/cobra"
)

func (a *app) initCommand() *cobra.Command {
	var s control.Settings
	var from brought
	cmd := &cobra.Command{
		Use:   "init [DIR]",
		Short: "Make a new control plane: keys, certificates and settings",
		Long: `Make a new control plane in DIR (or --dir), which must be empty or not exist: a root and an
intermediate certificate, the keys for gossip and for signing rules, and mesh.yaml with
the settings, to edit before "mesh serve".`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := a.dir
			if len(args) == 1 {
				dir = args[0]
			}
			b, err := from.read()
			if err == nil {
				err = control.InitFrom(dir, s, b)
			}
			if err != nil {
				return inputError{err}
			}
			return a.print(cmd, map[string]string{"dir": dir, "trust_domain": s.TrustDomain}, func(w io.Writer) error {
				rootKey := " ca/root.key is not needed to run;\nmove it somewhere safe."
				if b != nil || s.CA.URL != "" {
					rootKey = ""
				}
				_, err := fmt.Fprintf(w, `%[1]s is the control plane of mesh %[2]s.

It holds the mesh's keys: back it up, and let nobody read it.%[3]s admin.pem is the first operator's identity, for calls from elsewhere.

Next:
  mesh serve --dir %[1]s              run it (settings are in %[1]s/mesh.yaml)
  mesh token SERVICE --dir %[1]s      let a process of SERVICE in
`, dir, s.TrustDomain, rootKey)
				return err
			})
		},
	}
	listenFlags(cmd, &s.Advertise, &s.Listen)
	externalFlags(cmd, &s.CA)
	f := cmd.Flags()
	f.StringVar(&s.TrustDomain, "trust-domain", "", `name of the mesh, as in a domain: "example.test"; it can't change later`)
	f.StringVar(&s.Store, "store", "", "etcd://HOST:PORT,…/PREFIX?ca=FILE&cert=FILE&key=FILE to keep rules and records in etcd (default a file in DIR)")
	f.DurationVar(&s.CertificateLifetime, "certificate-lifetime", 0, "how long a member's certificate is valid (default 24h)")
	from.flags(f)
	if err := cmd.MarkFlagRequired("trust-domain"); err != nil {
		panic(err) // the flag is a few lines up
	}
	return cmd
}

func (a *app) serveCommand() *cobra.Command {
	level := slog.LevelInfo
	storeURL := ""
	var external ca.External
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the control plane",
		Long: `Run the control plane until SIGINT or SIGTERM. When members can join it prints one
line to standard output; the log goes to standard error.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			if a.output == "json" {
				log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			}
			began := time.Now()
			s, err := control.New(cmd.Context(), control.Config{Dir: a.dir, Store: storeURL, CA: external, Logger: log})
			if err != nil {
				return err
			}
			at := s.Addresses()
			err = a.print(cmd, struct {
				TrustDomain string `json:"trust_domain"`
				control.Addresses
			}{s.TrustDomain(), at}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "mesh %s is ready after %v: CA at https://%s, members at %s, gossip at %s\n",
					s.TrustDomain(), time.Since(began).Round(time.Millisecond), at.CA, at.Mesh, at.Gossip)
				return err
			})
			if err != nil {
				log.Warn("could not tell that the control plane is ready", "error", err)
			}
			return s.Serve(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&storeURL, "store", "", "where rules and records are: etcd://HOST:PORT,…/PREFIX?ca=FILE&cert=FILE&key=FILE; the default is store of mesh.yaml")
	externalFlags(cmd, &external)
	cmd.Flags().TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return cmd
}

// externalFlags are those that say which step-ca signs.
func externalFlags(cmd *cobra.Command, e *ca.External) {
	f := cmd.Flags()
	f.StringVar(&e.URL, "ca", "", "https://HOST:PORT of a step-ca that signs instead of the embedded one (and the part ca of mesh.yaml)")
	f.StringVar(&e.RootFile, "ca-root", "", "file of that CA's root certificate, PEM")
	f.StringVar(&e.Provisioner, "ca-provisioner", "", "name of a JWK provisioner of that CA")
	f.StringVar(&e.KeyFile, "ca-key", "", "file of the provisioner's private key, JWK or PEM")
	f.StringVar(&e.PasswordFile, "ca-password-file", "", "file of the password of that key")
}
