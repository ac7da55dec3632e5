package main_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/intramesh/mesh/policy"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var trustDomain = spiffeid.RequireTrustDomainFromString("prod.example")

// An agent answers the Workload API on a unix socket, for one workload, as a SPIRE agent does.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	service, socket string

	mu      sync.Mutex
	count   int
	now     *workload.X509SVIDResponse
	changed chan struct{}
}

func newAgent(t *testing.T, service string, ca *testca.CA) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "spiffe-") //nolint:usetesting // short: a unix socket's name has 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := &agent{service: service, socket: filepath.Join(dir, "agent.sock"), changed: make(chan struct{})}
	a.rotate(t, ca, ca)
	ln, err := new(net.ListenConfig).Listen(t.Context(), "unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(srv, a)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(ln) }) // until Stop
	t.Cleanup(func() { srv.Stop(); wg.Wait() })
	return a
}

// rotate issues a certificate by one authority, and has all of them trusted.
func (a *agent) rotate(t *testing.T, by *testca.CA, trusted ...*testca.CA) *x509.Certificate {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count++
	svid, err := by.SVID(a.service, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Duration(a.count) * time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	out := &workload.X509SVID{SpiffeId: svid.ID.String(), X509SvidKey: key}
	for _, c := range svid.Certificates {
		out.X509Svid = append(out.X509Svid, c.Raw...)
	}
	for _, ca := range trusted {
		out.Bundle = append(out.Bundle, ca.Root.Raw...)
	}
	a.now = &workload.X509SVIDResponse{Svids: []*workload.X509SVID{out}}
	close(a.changed)
	a.changed = make(chan struct{})
	return svid.Certificates[0]
}

// FetchX509SVID sends what there is, and whatever replaces it.
func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, s workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if md, _ := metadata.FromIncomingContext(s.Context()); len(md.Get("workload.spiffe.io")) != 1 {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		a.mu.Lock()
		now, changed := a.now, a.changed
		a.mu.Unlock()
		if err := s.Send(now); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

func newCA(t *testing.T) *testca.CA {
	t.Helper()
	ca, err := testca.New(trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// TestProcesses runs the example itself.
func TestProcesses(t *testing.T) {
	program := filepath.Join(t.TempDir(), "spiffe")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ca := newCA(t)
	const addr = "127.0.0.1:0"
	command := func(service string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET=unix://"+newAgent(t, service, ca).socket)
		return cmd
	}
	server := command("shop/greeter", "server", addr)
	out, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait() // it was killed
	})
	line := make([]byte, 512)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimSpace(string(line[:n]))
	at := text[strings.LastIndex(text, " ")+1:]
	for service, want := range map[string]string{"shop/visitor": "hello spiffe://prod.example/shop/visitor", "shop/other": "visitors only"} {
		var both bytes.Buffer
		client := command(service, "client", at)
		client.Stdout, client.Stderr = &both, &both
		if err := client.Run(); !strings.Contains(both.String(), want) {
			t.Errorf("%s: %v\n%s", service, err, &both)
		}
	}
}

// member joins with what an agent provides.
func member(t *testing.T, a *agent, eps ...discovery.Endpoint) *mesh.Mesh {
	t.Helper()
	source, err := workloadapi.NewX509Source(t.Context(), workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+a.socket)))
	if err != nil {
		t.Fatal(err)
	}
	allow := func(_ context.Context, r *policy.Request) policy.Decision {
		return policy.Decision{Verdict: policy.Allow, Rule: -1, Layer: r.Layer}
	}
	m, err := mesh.Join(t.Context(), mesh.Config{Identity: source, Discovery: static.New(eps...), Policy: policy.AuthorizerFunc(allow)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := source.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// TestRotation: new certificates and a new root arrive while a connection is open, and count for the next one; when the
// old root goes, so does a peer that still lives by it.
func TestRotation(t *testing.T) {
	first, second := newCA(t), newCA(t)
	greeter, visitor := newAgent(t, "greeter", first), newAgent(t, "visitor", first)
	server := member(t, greeter)
	ln, err := server.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = server.Close() // ends what is open
		wg.Wait()
	})
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	client := member(t, visitor, discovery.Endpoint{Service: "greeter", Instance: "one", Addr: addr})
	echo := func(c net.Conn) error {
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 4))
		return err
	}
	dial := func() (net.Conn, time.Time, error) {
		c, err := client.Dial(t.Context(), "tcp", "greeter")
		if err != nil {
			return nil, time.Time{}, err
		}
		peer, _ := mesh.PeerFromConn(c)
		return c, peer.Expiry, echo(c)
	}
	held, _, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	// Both roots are trusted everywhere before anybody has a certificate of the second one.
	visitor.rotate(t, first, first, second)
	greeter.rotate(t, first, first, second)
	want := greeter.rotate(t, second, first, second).NotAfter
	eventually(t, func() error {
		c, expiry, err := dial()
		if err == nil {
			err = c.Close()
		}
		if err == nil && !expiry.Equal(want) {
			err = fmt.Errorf("a certificate until %v, want the one until %v", expiry, want)
		}
		return err
	})
	if err := echo(held); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
	// Without the first root the visitor, who still has a certificate of it, is out.
	greeter.rotate(t, second, second)
	eventually(t, func() error {
		if c, _, err := dial(); err == nil {
			_ = c.Close()
			return errors.New("a certificate of the old root still counts")
		}
		return nil
	})
	visitor.rotate(t, second, second)
	eventually(t, func() error {
		c, _, err := dial()
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	end := time.NewTimer(15 * time.Second)
	defer end.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-end.C:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}
