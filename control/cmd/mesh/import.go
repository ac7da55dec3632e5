package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/intramesh/mesh/control/policyimport"
	"github.com/spf13/cobra"
)

func (a *app) importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Translate the rules of another mesh",
		Long: `Translate the rules of another mesh and print them as policies to review and apply. What could not
be carried over is told on standard error, each with its line, and as comments in the output. Nothing is
widened: what can't be said makes an allow narrower and a deny broader. When something that denies would be
lost, nothing is printed and it exits with 4, unless --partial is given.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.importIstioCommand(), a.importConsulCommand())
	return cmd
}

func (a *app) importIstioCommand() *cobra.Command {
	var cfg policyimport.IstioConfig
	var ports []string
	var partial bool
	cmd := &cobra.Command{
		Use:   "istio FILE|DIR|-...",
		Short: "Translate Istio's AuthorizationPolicies and RequestAuthentications",
		Long: `Translate the AuthorizationPolicies and RequestAuthentications (security.istio.io v1 and v1beta1) in
YAML or JSON files.

Services get their names from the labels that a policy selects by, callers from their namespace and service
account. When two of different namespaces would have the same name, the import is refused.

  kubectl get authorizationpolicies,requestauthentications -A -o yaml | mesh policy import istio - \
    --service '{namespace}/{app}' --caller '{namespace}/{serviceaccount}' --port 8080=web`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.Ports = make(map[string]string)
			for _, p := range ports {
				number, name, ok := strings.Cut(p, "=")
				if !ok || number == "" {
					return inputError{fmt.Errorf("port %q: want NUMBER=NAME", p)}
				}
				cfg.Ports[number] = name
			}
			return a.translate(cmd, args, partial, func(files []policyimport.File) (*policyimport.Result, error) {
				return policyimport.Istio(files, cfg)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Service, "service", "{app}", "the name of a service here, from labels and its {namespace}")
	f.StringVar(&cfg.Caller, "caller", "ns/{namespace}/sa/{serviceaccount}", "the name of a caller here")
	f.StringVar(&cfg.TrustDomain, "trust-domain", "cluster.local", "Istio's trust domain; it becomes the mesh's own")
	f.StringVar(&cfg.RootNamespace, "root-namespace", "istio-system", "the namespace whose policies are for all")
	f.StringVar(&cfg.Namespace, "namespace", "default", "the namespace of policies that name none")
	f.StringArrayVar(&ports, "port", nil, "the name here of a port there, 8080=web, or 8080= for the default port; may be given several times")
	addPartial(cmd, &partial)
	return cmd
}

func (a *app) importConsulCommand() *cobra.Command {
	var partial bool
	cmd := &cobra.Command{
		Use:   "consul FILE|DIR|-...",
		Short: "Translate Consul's service intentions",
		Long: `Translate service-intentions config entries in HCL or JSON files, and the Kubernetes objects of kind
ServiceIntentions. What no intention decides is denied, as with Consul's default_policy "deny".

  consul config read -kind service-intentions -name payments | mesh policy import consul -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.translate(cmd, args, partial, policyimport.Consul)
		},
	}
	addPartial(cmd, &partial)
	return cmd
}

func addPartial(cmd *cobra.Command, partial *bool) {
	cmd.Flags().BoolVar(partial, "partial", false, "print the rest when something that denies can't be translated: the result may allow more than the source")
}

var errPartial = errors.New("something that denies can't be translated; nothing was printed (--partial prints the rest)")

func (a *app) translate(cmd *cobra.Command, names []string, partial bool, translate func([]policyimport.File) (*policyimport.Result, error)) error {
	var files []policyimport.File
	for _, name := range names {
		list, err := expand(name, ".yaml", ".yml", ".json", ".hcl")
		if err != nil {
			return err
		}
		for _, f := range list {
			name, data, err := readFile(f, cmd.InOrStdin())
			if err != nil {
				return err
			}
			files = append(files, policyimport.File{Name: name, Data: data})
		}
	}
	r, err := translate(files)
	if err != nil {
		return err
	}
	for _, n := range r.Notes {
		if _, err := fmt.Fprintln(cmd.ErrOrStderr(), n); err != nil {
			return err
		}
	}
	if r.Widens() && !partial {
		return inputError{errPartial}
	}
	return a.print(cmd, r, func(w io.Writer) error {
		if len(r.Documents) == 0 {
			return nil
		}
		return r.WriteYAML(w)
	})
}
