// Package etcdtest runs an etcd cluster for tests: real members, each a process that can be killed. Only tests import it.
//
// The test binary is the member: TestMain calls [Main] first.
package etcdtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

const memberEnv = "MESH_TEST_ETCD_MEMBER"

// config is what a member's process gets.
type config struct {
	Name, Dir, Client, Peer, Cluster string
	TLS                              *TLS
}

// TLS are the files of a cluster that wants client certificates.
type TLS struct{ CA, Cert, Key string }

// Main runs a member, and does not return, in a process that [Start] made; else it does nothing.
func Main() {
	raw := os.Getenv(memberEnv)
	if raw == "" {
		return
	}
	if err := member(raw); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func member(raw string) error {
	var c config
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		return err
	}
	e := embed.NewConfig()
	e.Name, e.Dir, e.InitialCluster = c.Name, c.Dir, c.Cluster
	e.ListenClientUrls, e.AdvertiseClientUrls = urls(c.Client), urls(c.Client)
	e.ListenPeerUrls, e.AdvertisePeerUrls = urls(c.Peer), urls(c.Peer)
	e.LogLevel = "panic"
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e.TickMs, e.ElectionMs = 50, 500
	e.UnsafeNoFsync = true // a killed process loses nothing that it wrote
	if c.TLS != nil {
		e.ClientTLSInfo = transport.TLSInfo{CertFile: c.TLS.Cert, KeyFile: c.TLS.Key, TrustedCAFile: c.TLS.CA, ClientCertAuth: true}
	}
	s, err := embed.StartEtcd(e)
	if err != nil {
		return err
	}
	parent := make(chan struct{})
	go func() { // the test's end closes it, however it ends
		_, _ = os.Stdin.Read(make([]byte, 1))
		close(parent)
	}()
	select {
	case <-parent:
		return nil
	case err := <-s.Err():
		return err
	}
}

func urls(raw string) []url.URL {
	u, err := url.Parse(raw)
	if err != nil {
		panic(err)
	}
	return []url.URL{*u}
}

// A Cluster is a running etcd.
type Cluster struct {
	Members []*Member
	// TLS is nil for plaintext.
	TLS *TLS
}

// A Member is one process.
type Member struct {
	conf  config
	cmd   *exec.Cmd
	stdin interface{ Close() error }
}

// Start runs n members until the test ends, and waits until they have a leader.
func Start(t testing.TB, n int, files *TLS) *Cluster {
	t.Helper()
	if os.Getenv(memberEnv) != "" {
		t.Fatal("TestMain does not call etcdtest.Main")
	}
	c := &Cluster{TLS: files}
	scheme := "http"
	if files != nil {
		scheme = "https"
	}
	dir := t.TempDir()
	var cluster []string
	for i := range n {
		m := &Member{conf: config{
			Name: fmt.Sprint("m", i), Dir: filepath.Join(dir, fmt.Sprint(i)), TLS: files,
			Client: scheme + "://" + address(t), Peer: "http://" + address(t),
		}}
		cluster = append(cluster, m.conf.Name+"="+m.conf.Peer)
		c.Members = append(c.Members, m)
	}
	for _, m := range c.Members {
		m.conf.Cluster = strings.Join(cluster, ",")
		m.Start(t)
		t.Cleanup(func() { m.Kill() })
	}
	c.Wait(t)
	return c
}

// address is one that nobody else is given by chance while a member restarts: below those that systems hand out for
// port 0.
func address(t testing.TB) string {
	t.Helper()
	for {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(5000)) //nolint:gosec // any will do
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
}

// Start starts a member that was killed.
func (m *Member) Start(t testing.TB) {
	t.Helper()
	raw, err := json.Marshal(m.conf)
	if err != nil {
		t.Fatal(err)
	}
	m.cmd = exec.CommandContext(context.Background(), os.Args[0]) //nolint:gosec // the test itself; Kill ends it, and its input's end
	m.cmd.Env = append(os.Environ(), memberEnv+"="+string(raw))
	m.cmd.Stderr = os.Stderr
	stdin, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.stdin = stdin
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
}

// Kill ends a member by SIGKILL. It may be down already.
func (m *Member) Kill() {
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Signal(syscall.SIGKILL)
	_ = m.cmd.Wait() // signal: killed
	_ = m.stdin.Close()
	m.cmd = nil
}

// URL is what a control plane takes as its store; it names all members.
func (c *Cluster) URL(prefix string) string {
	var hosts []string
	for _, m := range c.Members {
		_, host, _ := strings.Cut(m.conf.Client, "://")
		hosts = append(hosts, host)
	}
	u := "etcd://" + strings.Join(hosts, ",") + "/" + prefix + "?"
	if c.TLS == nil {
		return u + "plaintext=true"
	}
	return u + url.Values{"ca": {c.TLS.CA}, "cert": {c.TLS.Cert}, "key": {c.TLS.Key}}.Encode()
}

// Wait waits until the cluster answers reads that need a quorum.
func (c *Cluster) Wait(t testing.TB) {
	t.Helper()
	cl := c.client(t)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		one, stop := context.WithTimeout(ctx, time.Second)
		_, err := cl.Get(one, "/ready")
		stop()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("etcd has no leader: ", err)
		}
	}
}

// Leader returns the member that leads.
func (c *Cluster) Leader(t testing.TB) *Member {
	t.Helper()
	cl := c.client(t)
	defer cl.Close()
	for _, m := range c.Members {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		s, err := cl.Status(ctx, m.conf.Client)
		cancel()
		if err == nil && s.Leader == s.Header.MemberId {
			return m
		}
	}
	t.Fatal(errors.New("etcd has no leader"))
	return nil
}

func (c *Cluster) client(t testing.TB) *clientv3.Client {
	t.Helper()
	conf := clientv3.Config{Logger: zap.NewNop()}
	for _, m := range c.Members {
		conf.Endpoints = append(conf.Endpoints, m.conf.Client)
	}
	if c.TLS != nil {
		info := transport.TLSInfo{CertFile: c.TLS.Cert, KeyFile: c.TLS.Key, TrustedCAFile: c.TLS.CA}
		var err error
		if conf.TLS, err = info.ClientConfig(); err != nil {
			t.Fatal(err)
		}
	}
	cl, err := clientv3.New(conf)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}
