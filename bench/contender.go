package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// The contenders. A pair of sidecars has a name of its own, see sidecar.go.
const (
	namePlain  = "plaintext"
	nameTLS    = "crypto/tls"
	nameSPIFFE = "go-spiffe"
	nameOurs   = "mesh"
	nameHost   = "mesh, same host" // which need not use TCP
	nameBefore = "mesh, before"    // by a bench that was built earlier
)

// A contender is a client process and a server process that are up, and perhaps a proxy beside each.
type contender struct {
	name           string
	server, client *child
	proxies        []*exec.Cmd
	loaded         load // what the client is prepared for
}

// env is what is needed to start a contender.
type env struct {
	dir     string // of the certificates, and for scratch
	profile string
	before  string // the program that nameBefore runs
}

func (e env) start(ctx context.Context, name string) (_ *contender, err error) {
	c := &contender{name: name}
	defer func() {
		if err != nil {
			c.stop()
		}
	}()
	if c.server, err = e.child(ctx, name, "server", serverName, nil); err != nil {
		return nil, err
	}
	addrs := c.server.addrs
	if s, ok := sidecars()[name]; ok {
		if c.proxies, addrs, err = s.start(ctx, e.dir, addrs); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	c.client, err = e.child(ctx, name, "client", clientName, addrs)
	return c, err
}

// child starts one process of a contender, with the certificate of identity.
func (e env) child(ctx context.Context, name, role, identity string, addrs map[string]string) (*child, error) {
	s := setup{Role: role, Contender: name, Dir: filepath.Join(e.dir, identity), Addrs: addrs}
	program := ""
	if name == nameBefore {
		s.Contender, program = nameOurs, e.before
	}
	if e.profile != "" {
		s.Profile = filepath.Join(e.profile, filepath.Base(name)+"-"+identity)
	}
	return startChild(ctx, program, s)
}

func (c *contender) stop() {
	if c.client != nil {
		c.client.stop()
	}
	stopProxies(c.proxies)
	if c.server != nil {
		c.server.stop()
	}
}

// proxyPIDs lists the proxies' processes with their workers.
func (c *contender) proxyPIDs() []int {
	var pids []int
	for _, p := range c.proxies {
		pids = append(pids, p.Process.Pid)
		pids = append(pids, children(p.Process.Pid)...)
	}
	return pids
}

// used returns what the processes other than the client have used so far.
func (c *contender) used() (usage, error) {
	r, err := c.server.ask(command{Op: "usage"})
	if err != nil {
		return usage{}, err
	}
	for _, pid := range c.proxyPIDs() {
		cpu, err := processCPU(pid)
		if err != nil {
			return usage{}, err
		}
		r.Usage.CPU += cpu
	}
	return r.Usage, nil
}

// kib returns the resident memory of all processes.
func (c *contender) kib() float64 {
	sum := residentKiB(c.server.cmd.Process.Pid) + residentKiB(c.client.cmd.Process.Pid)
	for _, pid := range c.proxyPIDs() {
		sum += residentKiB(pid)
	}
	return sum
}

// The figures of one round, by name. Times are in nanoseconds, each for one operation.
type figures map[string]float64

const (
	figTime   = "time" // elapsed by operations: the inverse of the rate
	figP50    = "p50"
	figP99    = "p99"
	figCPU    = "cpu" // of all processes
	figAllocs = "allocs"
	figBytes  = "bytes" // allocated
	figMemory = "memory"
)

// measure makes one round of a load. Connections are kept from one round to the next, until unload.
func (c *contender) measure(l load) (figures, error) {
	fail := func(err error) (figures, error) { return nil, fmt.Errorf("%s: %s: %w", c.name, l.Kind, err) }
	if c.loaded != l {
		c.unload()
		if _, err := c.client.ask(command{Op: "prepare", Load: l}); err != nil {
			return fail(err)
		}
		c.loaded = l
	}
	before, err := c.used()
	if err != nil {
		return fail(err)
	}
	r, err := c.client.ask(command{Op: "go"})
	if err != nil {
		return fail(err)
	}
	after, err := c.used()
	if err != nil {
		return fail(err)
	}
	u, ops := after.minus(before).plus(r.Usage), float64(r.Sample.Ops)
	return figures{
		figTime:   float64(r.Sample.Elapsed) / ops,
		figP50:    float64(r.Sample.P50),
		figP99:    float64(r.Sample.P99),
		figCPU:    float64(u.CPU) / ops,
		figAllocs: float64(u.Allocs) / ops,
		figBytes:  float64(u.Bytes) / ops,
		figMemory: c.kib(),
	}, nil
}

// unload closes what the client has open for its load.
func (c *contender) unload() {
	if c.loaded != (load{}) {
		_, _ = c.client.ask(command{Op: "finish"})
		c.loaded = load{}
	}
}
