package main_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	member "github.com/intramesh/mesh"
)

// A process that knows nothing of the mesh finds a member by its name.
func TestDNS(t *testing.T) {
	dir := newPlane(t)
	p := serve(t, dir)
	payments := joinAs(t, member.Config{Bootstrap: token(t, p.client(t), "payments")})
	addr := echo(t, payments)

	cmd := exec.CommandContext(t.Context(), binary, "dns", "--listen", "127.0.0.1:0", "-o", "json", "--log-level", "error")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MESH_BOOTSTRAP="+token(t, p.client(t), "dns").Encode())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var ready struct{ DNS string }
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, ready.DNS)
	}}
	within(t, "payments.mesh.", func(ctx context.Context) error {
		_, srv, err := r.LookupSRV(ctx, "", "", "payments.mesh.")
		if err != nil {
			return err
		}
		if len(srv) != 1 || srv[0].Port != addr.Port() {
			return errors.New("other records")
		}
		ips, err := r.LookupNetIP(ctx, "ip", srv[0].Target)
		if err == nil && (len(ips) != 1 || ips[0].Unmap() != addr.Addr()) {
			return errors.New("other addresses")
		}
		return err
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
