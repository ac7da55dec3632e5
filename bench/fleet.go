package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/policy"
)

// A fleet is a control plane, processes with members, and a caller with a connection to each of them.
const (
	roleFleet      = "fleet"
	fleetService   = "fleet"
	fleetCaller    = "caller"
	fleetMembers   = 100
	fleetProcesses = 4
	fleetChanges   = 10 // in a round
)

// Figures of a fleet.
const (
	figApply = "acknowledged" // from the start of "mesh policy apply" until it ends
	figWorst = "worst"
)

func fleetWorkload() workload {
	return workload{
		name: "rules", title: "From the start of \"mesh policy apply\" until the last of 100 members has cut what is no longer allowed",
		contenders: []string{nameOurs}, headline: figTime, rounds: 2, measure: measureFleet,
		goals: []goal{ours(figTime, "", 1e9), ours(figWorst, "", 1e9)},
	}
}

func measureFleet(ctx context.Context, b *bench, _ string) (_ figures, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	f, err := newFleet(ctx, b.env.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.stop()) }()
	var last, middle, applied []float64
	for range fleetChanges {
		if err := f.connect(ctx); err != nil {
			return nil, err
		}
		began := time.Now()
		cut := f.awaitCuts(began)
		if err := f.apply(ctx, false); err != nil {
			return nil, err
		}
		applied = append(applied, float64(time.Since(began)))
		took, err := cut()
		if err != nil {
			return nil, err
		}
		last, middle = append(last, slices.Max(took)), append(middle, median(took))
	}
	return figures{figTime: median(last), figWorst: slices.Max(last), figP50: median(middle), figApply: median(applied)}, nil
}

type fleet struct {
	dir    string // the control plane's
	mesh   string // the command
	serve  *exec.Cmd
	procs  []*child
	caller *mesh.Mesh
	addrs  []netip.AddrPort
	conns  []net.Conn
}

func newFleet(ctx context.Context, scratch string) (_ *fleet, err error) {
	f := &fleet{mesh: filepath.Join(scratch, "mesh")}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.stop())
		}
	}()
	if _, err := os.Stat(f.mesh); err != nil {
		if _, err := goTool(ctx, "build", "-o", f.mesh, "./control/cmd/mesh"); err != nil {
			return nil, err
		}
	}
	if f.dir, err = os.MkdirTemp(scratch, "plane"); err != nil {
		return nil, err
	}
	const free = "127.0.0.1:0"
	if _, err := f.run(ctx, "init", "--trust-domain", trustDomain, "--listen-ca", free, "--listen-mesh", free, "--listen-gossip", free); err != nil {
		return nil, err
	}
	serve := exec.CommandContext(ctx, f.mesh, "serve", "--dir", f.dir, "-o", "json", "--log-level", "error") //nolint:gosec // our own program
	serve.Stderr = os.Stderr
	out, err := serve.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := serve.Start(); err != nil {
		return nil, err
	}
	f.serve = serve
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, fmt.Errorf("mesh serve: %w", err)
	}
	if err := f.start(ctx); err != nil {
		return nil, err
	}
	return f, f.apply(ctx, true)
}

// start starts the members and the caller.
func (f *fleet) start(ctx context.Context) error {
	for range fleetProcesses {
		s := setup{Role: roleFleet, Addrs: make(map[string]string)}
		for i := range fleetMembers / fleetProcesses {
			b, err := f.run(ctx, "token", fleetService)
			if err != nil {
				return err
			}
			s.Addrs[strconv.Itoa(i)] = string(b)
		}
		c, err := startChild(ctx, "", s)
		if err != nil {
			return err
		}
		f.procs = append(f.procs, c)
		for _, a := range c.addrs {
			addr, err := netip.ParseAddrPort(a)
			if err != nil {
				return err
			}
			f.addrs = append(f.addrs, addr)
		}
	}
	token, err := f.run(ctx, "token", fleetCaller)
	if err != nil {
		return err
	}
	b, err := mesh.ParseBootstrap(string(token))
	if err != nil {
		return err
	}
	f.caller, err = mesh.Join(ctx, mesh.Config{Bootstrap: b})
	return err
}

func (f *fleet) stop() error {
	var err error
	if f.caller != nil {
		err = f.caller.Close()
	}
	for _, c := range f.procs {
		c.stop()
	}
	if f.serve != nil {
		_ = f.serve.Process.Kill()
		_ = f.serve.Wait() // it was killed
	}
	return err
}

// run runs the command mesh, as an operator does.
func (f *fleet) run(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, f.mesh, append(args, "--dir", f.dir)...) //nolint:gosec // our own program
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("mesh %s: %w", args[0], err)
	}
	return out, nil
}

// apply lets the caller in, or not any more.
func (f *fleet) apply(ctx context.Context, allow bool) error {
	who := fleetCaller
	if !allow {
		who = guestName
	}
	raw, err := json.Marshal(policy.Document{
		APIVersion: policy.APIVersion, Kind: policy.Kind, Metadata: policy.Metadata{Name: "fleet"},
		Spec: policy.Spec{Service: fleetService, Action: policy.ActionAllow, Rules: []policy.Rule{
			{From: []policy.Source{{Services: []string{who}}}},
		}},
	})
	if err != nil {
		return err
	}
	file := filepath.Join(f.dir, "..", "rules.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return err
	}
	_, err = f.run(ctx, "policy", "apply", "-f", file)
	return err
}

// connect lets the caller in and opens a connection to each member, as soon as the member lets it.
func (f *fleet) connect(ctx context.Context) error {
	if err := f.apply(ctx, true); err != nil {
		return err
	}
	f.conns = make([]net.Conn, len(f.addrs))
	errs := make([]error, len(f.addrs))
	var wg sync.WaitGroup
	for worker := range fleetProcesses { // more at a time would only wait for each other
		wg.Go(func() {
			for i := worker; i < len(f.addrs); i += fleetProcesses {
				f.conns[i], errs[i] = f.dial(ctx, f.addrs[i])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (f *fleet) dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	for {
		c, err := f.caller.DialEndpoint(ctx, fleetService, addr)
		if err != nil {
			return nil, err
		}
		if _, err = c.Write([]byte{1}); err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		if err == nil {
			return c, nil
		}
		_ = c.Close() // denied yet
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// awaitCuts waits until every connection was cut, and returns how long after the beginning each was.
func (f *fleet) awaitCuts(began time.Time) func() ([]float64, error) {
	took, errs := make([]float64, len(f.conns)), make([]error, len(f.conns))
	var wg sync.WaitGroup
	for i, c := range f.conns {
		wg.Go(func() {
			defer c.Close()
			_ = c.SetReadDeadline(began.Add(30 * time.Second))
			_, err := c.Read(make([]byte, 1))
			took[i] = float64(time.Since(began))
			if _, denied := errors.AsType[*mesh.DeniedError](err); !denied {
				errs[i] = fmt.Errorf("not cut by the rules: %w", err)
			}
		})
	}
	return func() ([]float64, error) {
		wg.Wait()
		return took, errors.Join(errs...)
	}
}

// serveFleet is a process of members, one for each bootstrap, that send back what they get.
func serveFleet(bootstraps map[string]string) (*process, error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		addrs = make(map[string]string)
		errs  []error
	)
	for name, token := range bootstraps {
		wg.Go(func() {
			ln, err := listenAsMember(context.Background(), token)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			addrs[name] = ln.Addr().String()
			go sendBack(ln)
		})
	}
	wg.Wait()
	return &process{addrs: addrs}, errors.Join(errs...)
}

func listenAsMember(ctx context.Context, token string) (net.Listener, error) {
	b, err := mesh.ParseBootstrap(token)
	if err != nil {
		return nil, err
	}
	m, err := mesh.Join(ctx, mesh.Config{Bootstrap: b})
	if err != nil {
		return nil, err
	}
	return m.Listen(ctx, "tcp", "127.0.0.1:0")
}

func sendBack(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}
