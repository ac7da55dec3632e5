package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/control"
	"github.com/intramesh/mesh/control/admin"
	"github.com/intramesh/mesh/control/rulesfile"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// glog, below smallstep's badger, starts it when it is linked in.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

var anyPort = control.Listen{CA: "127.0.0.1:0", Mesh: "127.0.0.1:0", Gossip: "127.0.0.1:0"}

func newDir(t *testing.T) string {
	t.Helper()
	return initDir(t, control.Settings{TrustDomain: "example.test", Listen: anyPort})
}

func initDir(t *testing.T, s control.Settings) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mesh")
	if err := control.Init(dir, s); err != nil {
		t.Fatal(err)
	}
	return dir
}

// keepPorts has the control plane of dir take ports that nobody else is given by chance while
// it restarts: below those that systems hand out for port 0.
func keepPorts(t *testing.T, dir string) string {
	t.Helper()
	var addrs []any
	for len(addrs) < 3 {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(15000))
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		addrs = append(addrs, addr)
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
	}
	run := fmt.Sprintf(`{"ca": %q, "mesh": %q, "gossip": %q}`, addrs...)
	if err := os.WriteFile(filepath.Join(dir, "run.json"), []byte(run), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A plane is a running control plane and a client of it.
type plane struct {
	*control.Server
	admin *admin.Client
	stop  func()
}

func serve(t *testing.T, dir string) *plane {
	t.Helper()
	s, err := control.New(t.Context(), control.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx); err != nil {
			t.Error(err)
		}
	})
	c, err := s.Admin()
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{Server: s, admin: c}
	p.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := errors.Join(c.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *plane) join(t *testing.T, service, state string) *mesh.Mesh {
	t.Helper()
	b, err := p.admin.Token(t.Context(), service, 0)
	if err != nil {
		t.Fatal(err)
	}
	return join(t, b, service, state)
}

func join(t *testing.T, b *mesh.Bootstrap, service, state string) *mesh.Mesh {
	t.Helper()
	m, err := mesh.Join(t.Context(), mesh.Config{Service: service, Bootstrap: b, StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (p *plane) apply(t *testing.T, rules string) uint64 {
	t.Helper()
	docs, err := rulesfile.Parse("rules", []byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.admin.Apply(t.Context(), docs)
	if err != nil {
		t.Fatal(err)
	}
	return r.Version
}

const ordersMayCallPayments = `
apiVersion: mesh/v1
kind: Authorization
metadata: {name: payments-callers}
spec:
  service: payments
  action: allow
  rules: [{from: [{services: [orders]}]}]
`

// echo serves the default port of m until the test ends.
func echo(t *testing.T, m *mesh.Mesh) {
	t.Helper()
	ln, err := m.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = m.Close() // ends what is open
		wg.Wait()
	})
}

// ping sends a line to payments and reads it back.
func ping(ctx context.Context, m *mesh.Mesh) error {
	c, err := m.Dial(ctx, "tcp", "payments")
	if err != nil {
		return err
	}
	defer c.Close()
	if d, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(d); err != nil {
			return err
		}
	}
	if _, err := c.Write([]byte("ping")); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 4))
	return err
}

// eventually tries until it works, each time after something may have changed.
func eventually(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func TestMembersFollowTheRules(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	payments, orders := p.join(t, "payments", ""), p.join(t, "orders", "")
	echo(t, payments)
	eventually(t, "denied by default", func(ctx context.Context) error {
		var denied *mesh.DeniedError
		if err := ping(ctx, orders); !errors.As(err, &denied) {
			return errors.Join(errors.New("not denied"), err)
		}
		return nil
	})
	version := p.apply(t, ordersMayCallPayments)
	eventually(t, "allowed by a rule", func(ctx context.Context) error { return ping(ctx, orders) })
	eventually(t, "both listed with these rules", func(ctx context.Context) error {
		members, err := p.admin.Members(ctx)
		if err != nil {
			return err
		}
		seen := make(map[string]admin.Member)
		for _, m := range members {
			if m.State == "alive" && m.Rules == version {
				seen[m.Service] = m
			}
		}
		if len(seen) != 3 || len(seen["payments"].Ports) != 1 || len(seen["mesh/control"].Ports) != 1 {
			return errors.New("not all there")
		}
		return nil
	})
	if _, err := p.admin.Delete(t.Context(), []string{"payments-callers"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "denied again", func(ctx context.Context) error {
		if ping(ctx, orders) == nil {
			return errors.New("still allowed")
		}
		return nil
	})
}

// TestRestart: a control plane that comes back has its rules, its ports and its members.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir, state := keepPorts(t, newDir(t)), t.TempDir()
	p := serve(t, dir)
	at := p.Addresses()
	b, err := p.admin.Token(t.Context(), "payments", 0)
	if err != nil {
		t.Fatal(err)
	}
	m := join(t, b, "payments", filepath.Join(state, "payments"))
	orders := p.join(t, "orders", "")
	echo(t, m)
	version := p.apply(t, ordersMayCallPayments)
	eventually(t, "allowed", func(ctx context.Context) error { return ping(ctx, orders) })

	p.stop()
	if err := ping(t.Context(), orders); err != nil {
		t.Errorf("without the control plane: %v", err)
	}
	again := serve(t, dir)
	if got := again.Addresses(); got != at {
		t.Errorf("came back at %+v, was at %+v", got, at)
	}
	rules, err := again.admin.Rules(t.Context())
	if err != nil || rules.Version != version || len(rules.Documents) != 1 {
		t.Errorf("came back with %+v, %v", rules, err)
	}
	next := again.apply(t, strings.Replace(ordersMayCallPayments, "orders]", "orders, shop]", 1))
	eventually(t, "the members follow it again", func(ctx context.Context) error {
		members, err := again.admin.Members(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, m := range members {
			if m.State == "alive" && m.Rules == next {
				n++
			}
		}
		if n != 3 {
			return errors.New("not yet")
		}
		return nil
	})
}

// TestNames: trust domains and addresses that are less usual, each with a member.
func TestNames(t *testing.T) {
	t.Parallel()
	six := control.Listen{CA: "[::1]:0", Mesh: "[::1]:0", Gossip: "[::1]:0"}
	for _, s := range []control.Settings{
		{TrustDomain: "prod", Listen: anyPort},
		{TrustDomain: "my_mesh.test", Listen: anyPort},
		{TrustDomain: "example.test", Listen: anyPort, Advertise: "localhost"},
		{TrustDomain: "example.test", Listen: six, Advertise: "::1"},
	} {
		t.Run(s.TrustDomain+" "+s.Advertise, func(t *testing.T) {
			t.Parallel()
			if ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", s.Listen.CA); err != nil {
				t.Skip(err) // no IPv6
			} else if err := ln.Close(); err != nil {
				t.Fatal(err)
			}
			p := serve(t, initDir(t, s))
			m := p.join(t, "a/b_c/d-e", filepath.Join(t.TempDir(), "state"))
			if got, want := m.ID().String(), "spiffe://"+s.TrustDomain+"/a/b_c/d-e"; got != want {
				t.Errorf("joined as %s, want %s", got, want)
			}
		})
	}
}

// TestGone: a member that left is soon not listed any more.
func TestGone(t *testing.T) {
	t.Parallel()
	p := serve(t, newDir(t))
	orders := p.join(t, "orders", "")
	listed := func(ctx context.Context, want int) error {
		members, err := p.admin.Members(ctx)
		if err == nil && len(members) != want {
			err = fmt.Errorf("listed: %+v", members)
		}
		return err
	}
	eventually(t, "both there", func(ctx context.Context) error { return listed(ctx, 2) })
	if err := orders.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one gone", func(ctx context.Context) error { return listed(ctx, 1) })
}

func TestOneServerPerDirectory(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	serve(t, dir)
	if s, err := control.New(t.Context(), control.Config{Dir: dir}); err == nil {
		t.Error("a second server started", s.Close())
	} else if !strings.Contains(err.Error(), "held by another process") {
		t.Error(err)
	}
}

// TestPortTaken: losing a port of the last run is not fatal when the settings leave it open.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	dir := keepPorts(t, newDir(t))
	p := serve(t, dir)
	at := p.Addresses()
	p.stop()
	ca, err := new(net.ListenConfig).Listen(t.Context(), "tcp", at.CA)
	if err != nil {
		t.Fatal(err)
	}
	defer ca.Close()
	gossip, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", at.Gossip)
	if err != nil {
		t.Fatal(err)
	}
	defer gossip.Close()
	again := serve(t, dir)
	if got := again.Addresses(); got.CA == at.CA || got.Gossip == at.Gossip || got.Mesh != at.Mesh {
		t.Errorf("came back at %+v, was at %+v", got, at)
	}
	again.join(t, "orders", "")
}

func TestInitRefuses(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	if err := control.Init(dir, control.Settings{TrustDomain: "example.test"}); err == nil || !strings.Contains(err.Error(), "never overwritten") {
		t.Errorf("over another one: %v", err)
	}
	for _, s := range []control.Settings{
		{},
		{TrustDomain: "Example.test"},
		{TrustDomain: "10.0.0.1"},
		{TrustDomain: "a/b"},
		{TrustDomain: "a..b"},
		{TrustDomain: ".a"},
		{TrustDomain: "a."},
		{TrustDomain: "example.test", Advertise: "https://x"},
		{TrustDomain: "example.test", Listen: control.Listen{Mesh: "7441"}},
		{TrustDomain: "example.test", Listen: control.Listen{Mesh: "no.ip:7441"}},
		{TrustDomain: "example.test", CertificateLifetime: time.Second},
		{TrustDomain: "example.test", TokenLifetime: 1000 * time.Hour},
	} {
		dir := t.TempDir()
		if err := control.Init(dir, s); err == nil {
			t.Errorf("%+v was accepted", s)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%+v: left %v, %v", s, left, err)
		}
	}
}

func TestSettingsAreStrict(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	path := filepath.Join(dir, "mesh.yaml")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for change, want := range map[[2]string]string{
		{"advertise:", "advertize:"}:                                       "mesh.yaml:3:1: ",
		{"certificate_lifetime: 24h", "certificate_lifetime: tomorrow"}:    "mesh.yaml:8:",
		{"certificate_lifetime: 24h", "certificate_lifetime: 1s"}:          "certificate_lifetime: 1s is below",
		{"trust_domain: example.test", "trust_domain: other.test"}:         "can't be changed",
		{"trust_domain: example.test", "trust_domain: a\ntrust_domain: b"}: "mesh.yaml:3:1: ",
	} {
		if err := os.WriteFile(path, []byte(strings.Replace(string(good), change[0], change[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := control.New(t.Context(), control.Config{Dir: dir}); err == nil {
			t.Errorf("%q: accepted, %v", change[1], s.Close())
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", change[1], err, want)
		}
	}
	if _, err := control.New(t.Context(), control.Config{Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "mesh init") {
		t.Errorf("an empty directory: %v", err)
	}
}
