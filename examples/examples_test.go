// Package examples_test runs the examples as processes, against a real control plane.
package examples_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/rulesfile"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// glog, below smallstep's badger, starts it when it is linked in.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

var examples = []struct {
	name, service  string
	server, client []string
	rule           string // what the client may do
	want           string // what it then prints
}{{
	name: "http", service: "payments", server: []string{"server"}, client: []string{"client"},
	rule: `{methods: [POST], paths: [/charge]}`,
	want: "charged 1299 cents for client\n",
}, {
	name: "grpc", service: "payments", server: []string{"server"}, client: []string{"client"},
	rule: `{grpc: [pay.v1.Payments/Charge]}`,
	want: "charged 1299 cents for client\n",
}, {
	name: "tcp", service: "cache", server: []string{"server"}, client: []string{"client"},
	rule: `{ports: [""]}`,
	want: "it was ",
}, {
	name: "minimal", service: "greeter", client: []string{"greeter"},
	rule: `{ports: [""]}`,
	want: "hello spiffe://examples.test/client\n",
}}

func TestExamples(t *testing.T) {
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./http", "./grpc", "./tcp", "./minimal")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, e := range examples {
		t.Run(e.name, func(t *testing.T) {
			operator := startControl(t)
			program := filepath.Join(bin, e.name)
			serve(t, operator, e.service, program, e.server)

			out, err := run(t, operator, program, e.client)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(out, "denied") {
				t.Errorf("without a rule: %v, want exit status 1 and the denial\n%s", err, out)
			}
			apply(t, operator, fmt.Sprintf(`{apiVersion: mesh/v1, kind: Authorization, metadata: {name: test},
				spec: {service: %s, action: allow, rules: [{from: [{services: [client]}], to: [%s]}]}}`, e.service, e.rule))
			out, err = run(t, operator, program, e.client)
			if err != nil || !strings.HasPrefix(out, e.want) {
				t.Errorf("with a rule: %v, want %q\n%s", err, e.want, out)
			}
		})
	}
}

// startControl runs a control plane in this process.
func startControl(t *testing.T) *admin.Client {
	t.Helper()
	tmp, err := os.MkdirTemp("", "ex-") //nolint:usetesting // short: a unix socket's name has 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	dir := filepath.Join(tmp, "control")
	const free = "127.0.0.1:0"
	settings := control.Settings{TrustDomain: "examples.test", Listen: control.Listen{CA: free, Mesh: free, Gossip: free}}
	if err := control.Init(dir, settings); err != nil {
		t.Fatal(err)
	}
	s, err := control.New(t.Context(), control.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	operator, err := s.Admin()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = operator.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return operator
}

// command prepares a process that joins as a service.
func command(t *testing.T, operator *admin.Client, service, program string, args []string) *exec.Cmd {
	t.Helper()
	b, err := operator.Token(t.Context(), service, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "MESH_BOOTSTRAP="+b.Encode())
	return cmd
}

// serve starts a server and waits until the mesh knows where it listens.
func serve(t *testing.T, operator *admin.Client, service, program string, args []string) {
	t.Helper()
	cmd := command(t, operator, service, program, args)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("the server logged:\n%s", &log)
		}
	})
	eventually(t, func() error {
		members, err := operator.Members(t.Context())
		if err == nil && !slices.ContainsFunc(members, func(m admin.Member) bool { return m.Service == service && len(m.Ports) > 0 }) {
			err = errors.New("the server does not listen")
		}
		return err
	})
}

// run runs a client to its end and returns what it printed.
func run(t *testing.T, operator *admin.Client, program string, args []string) (string, error) {
	t.Helper()
	cmd := command(t, operator, "client", program, args)
	stop := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer stop.Stop()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// apply changes the rules, and waits until the server follows.
func apply(t *testing.T, operator *admin.Client, rules string) {
	t.Helper()
	docs, err := rulesfile.Parse("test", []byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	applied, err := operator.Apply(t.Context(), docs, admin.ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		members, err := operator.Members(t.Context())
		if err == nil && slices.ContainsFunc(members, func(m admin.Member) bool { return len(m.Ports) > 0 && m.Rules > 0 && m.Rules < applied.Version }) {
			err = errors.New("the server does not follow the rules")
		}
		return err
	})
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}
