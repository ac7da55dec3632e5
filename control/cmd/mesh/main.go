// Command mesh runs the control plane of a mesh, and talks to a running one.
//
// It exits with 0 when it did what was asked, 1 when "explain" says denied, "policy lint" has something
// to tell, "policy test" fails, "policy diff" finds a difference or "status --wait" waits in vain, 2 when it was called wrongly, 3 when no control plane answers, 4
// when what was given to it is not accepted, and 5 when something else failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/policy"
	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK = iota
	exitDenied
	exitUsage
	exitUnreachable
	exitRefused
	exitFailed
)

func main() {
	// The first signal ends things in order; a second one ends them at once.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// app is what the commands share.
type app struct {
	dir    string
	server string // instead of dir
	cert   string
	output string
	called bool // the arguments were in order
}

// errDenied makes explain, lint, test, diff and status exit with 1; what there is to say was said.
var errDenied = errors.New("denied")

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	code := a.code(err)
	switch code {
	case exitOK, exitDenied:
	case exitUsage:
		_, _ = fmt.Fprintf(stderr, "mesh: %v\nRun %q to see how it is used.\n", err, cmd.CommandPath()+" --help")
	default:
		_, _ = fmt.Fprintf(stderr, "mesh: %v\n", err)
	}
	return code
}

func (a *app) code(err error) int {
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errDenied) {
		return exitDenied
	}
	if !a.called {
		return exitUsage
	}
	if _, ok := errors.AsType[*admin.UnreachableError](err); ok {
		return exitUnreachable
	}
	if e, ok := errors.AsType[*admin.Error](err); ok && e.Status < 500 {
		return exitRefused
	}
	if _, ok := errors.AsType[*policy.ParseError](err); ok {
		return exitRefused
	}
	if _, ok := errors.AsType[inputError](err); ok || errors.Is(err, fs.ErrNotExist) {
		return exitRefused
	}
	return exitFailed
}

// inputError is about something that was given and is not accepted.
type inputError struct{ error }

func (e inputError) Unwrap() error { return e.error }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "mesh",
		Short:         "Run a mesh's control plane, and talk to it",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "" && a.output != "json" {
				return fmt.Errorf("output %q: want json", a.output)
			}
			return nil
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	dir := os.Getenv("MESH_DIR")
	if dir == "" {
		dir = "mesh-data"
	}
	root.PersistentFlags().StringVar(&a.dir, "dir", dir, "the control plane's directory; by default $MESH_DIR or ./mesh-data")
	root.PersistentFlags().StringVar(&a.server, "server", os.Getenv("MESH_SERVER"), "the URL of a control plane on another machine, https://HOST:PORT; by default $MESH_SERVER, or the one in --dir")
	root.PersistentFlags().StringVar(&a.cert, "cert", os.Getenv("MESH_CERT"), "with --server: the file with your identity, from mesh admin issue; by default $MESH_CERT")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "", `"json" for scripts`)
	root.AddCommand(
		a.initCommand(), a.serveCommand(), a.dnsCommand(), a.replicaCommand(), a.snapshotCommand(),
		a.tokenCommand(), a.bootstrapCommand(), a.revokeCommand(), a.caCommand(), a.keyringCommand(),
		a.policyCommand(), a.explainCommand(), a.membersCommand(), a.statusCommand(), a.auditCommand(), a.adminCommand(),
	)
	a.mark(root)
	return root
}

// version is that of the module, as go install recorded it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

// mark notes when a command runs: errors before that are about how it was called.
func (a *app) mark(cmd *cobra.Command) {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a.called = true
		return run(cmd, args)
	}
	for _, sub := range cmd.Commands() {
		a.mark(sub)
	}
}

func (a *app) connect() (*admin.Client, error) {
	if a.server == "" {
		return admin.NewClient(a.dir)
	}
	if a.cert == "" {
		return nil, inputError{errors.New("--server takes --cert, the file with your identity (admin.pem of mesh init, or from mesh admin issue)")}
	}
	c, err := admin.Dial(a.server, a.cert)
	if err != nil {
		return nil, inputError{err}
	}
	return c, nil
}

// client calls the control plane of --server or --dir, and hangs up.
func (a *app) client(call func(*admin.Client) error) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	return call(c)
}
