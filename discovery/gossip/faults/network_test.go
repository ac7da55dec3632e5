package faults_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/intramesh/mesh/internal/testca"
)

// A network is a switch with cables to hosts. The switch has two halves, of which one is not used at first.
type network struct {
	name string
	ca   *testca.CA
}

var networks atomic.Int32

func newNetwork(t *testing.T) *network {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("network namespaces need Linux and root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("the program ip (iproute2) is not installed")
	}
	n := &network{name: fmt.Sprintf("mesh-%d-%d", os.Getpid(), networks.Add(1)), ca: newCA(t, "example.test")}
	if err := n.try("ip", "netns", "add", n.name); err != nil {
		t.Skipf("network namespaces are not allowed here: %v", err)
	}
	t.Cleanup(func() { _ = n.try("ip", "netns", "del", n.name) })
	for _, half := range []string{"one", "two"} {
		n.run(t, "ip", "-n", n.name, "link", "add", half, "type", "bridge")
		n.run(t, "ip", "-n", n.name, "link", "set", half, "up")
	}
	return n
}

func newCA(t *testing.T, domain string) *testca.CA {
	t.Helper()
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString(domain))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// certs issues a certificate to a service and returns the folder that it is in.
func (n *network) certs(t *testing.T, service string) string {
	t.Helper()
	svid, err := n.ca.SVID(service)
	dir := t.TempDir()
	if err == nil {
		_, _, _, err = n.ca.Write(dir, svid)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func (n *network) try(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (n *network) run(t *testing.T, args ...string) {
	t.Helper()
	if err := n.try(args...); err != nil {
		t.Fatal(err)
	}
}

func cable(i int) string { return fmt.Sprintf("host%d", i) }

func (n *network) addr(i int) string { return fmt.Sprintf("10.99.0.%d", i+1) }

// host connects host i and returns its namespace.
func (n *network) host(t *testing.T, i int) string {
	t.Helper()
	ns := fmt.Sprintf("%s-%d", n.name, i)
	n.run(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { _ = n.try("ip", "netns", "del", ns) })
	n.run(t, "ip", "-n", n.name, "link", "add", cable(i), "type", "veth", "peer", "name", "eth0", "netns", ns)
	n.run(t, "ip", "-n", n.name, "link", "set", cable(i), "master", "one", "up")
	n.run(t, "ip", "-n", ns, "addr", "add", n.addr(i)+"/24", "dev", "eth0")
	n.run(t, "ip", "-n", ns, "link", "set", "eth0", "up")
	n.run(t, "ip", "-n", ns, "link", "set", "lo", "up")
	return ns
}

// plug puts host i on one half of the switch.
func (n *network) plug(t *testing.T, i int, half string) {
	t.Helper()
	n.run(t, "ip", "-n", n.name, "link", "set", cable(i), "master", half)
}

// lose drops this part, in percent, of all packets that pass the switch.
func (n *network) lose(t *testing.T, percent int) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("the program nft (nftables) is not installed")
	}
	rules := fmt.Sprintf("add table bridge loss; add chain bridge loss pass { type filter hook forward priority 0; }; add rule bridge loss pass numgen random mod 100 < %d counter drop", percent)
	if err := n.try("ip", "netns", "exec", n.name, "nft", rules); err != nil {
		t.Skipf("packets can't be dropped here: %v", err)
	}
}

// lost reports whether any packet was dropped.
func (n *network) lost(t *testing.T) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", n.name, "nft", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(out, []byte("counter packets")) && !bytes.Contains(out, []byte("counter packets 0 "))
}
