//go:build linux

package mesh_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/intramesh/mesh"
)

// On Unix sockets a mesh is what it is on TCP.
func TestSameHost(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"conn": TestConnBehavesAsNetConn, "half close": TestHalfClose, "abrupt end": TestAbruptEndIsNotEOF, "closed conn": TestClosedConn,
		"reused conn": TestReusedConnBehavesAsNetConn, "not reused": TestNoReuseAfterAnEvent, "goodbye": TestGoodbyeBehindAClose,
		"server first": TestServerSpeaksFirst, "denied again": TestDeniedReused, "next alone": TestClosedConnLeavesTheNextAlone,
		"slow close": TestSlowCloseHoldsUpNobody, "shutdown idle": TestShutdownWithIdleLinks,
		"peers": TestDialAndPeers, "named ports": TestNamedPorts, "denied": TestDeniedRaw, "cut": TestRuleChangeCutsOpenConnections,
		"accept": TestAcceptUnblockedByClose, "wrong service": TestWrongServiceAnswers, "close": TestCloseLeavesNothing, "shutdown": TestShutdownWaitsForConnections,
		"refused": TestRefusedConnectionIsKept, "refused at close": TestCloseWithRefusedConnections, "peers that do not read": TestCutOfPeersThatDoNotRead,
		"revoked client": TestRevokedClientIsRefused, "stale": TestTransportStaleConnection, "many stale": TestTransportManyStaleConnections,
		"raw endpoints": TestTransportLeavesRawEndpointsAlone,
	} {
		t.Run(name, test)
	}
}

// socketOf is the name of the Unix socket that belongs to an address.
func socketOf(a netip.AddrPort) string { return fmt.Sprintf("@intramesh/%d/%v", os.Geteuid(), a) }

// sockets counts the Unix sockets of an address: that of its listener, and those that it has accepted.
func sockets(t *testing.T, a netip.AddrPort) int {
	t.Helper()
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), socketOf(a)+"\n")
}

func listenUnix(t *testing.T, name string) net.Listener {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "unix", name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// host is two members that may use Unix sockets.
func host(t *testing.T, edit ...func(*mesh.Config)) (w *world, payments, orders *mesh.Mesh) {
	t.Helper()
	if os.Geteuid() == 65534 {
		t.Skip("whoever is nobody in particular uses TCP")
	}
	w = newWorld(t, rule{from: "orders", to: "payments"})
	w.network = nil
	return w, w.join("payments", edit...), w.join("orders")
}

// What the rules see of a caller on the same host, and what either side says of its connection, is what TCP would show.
func TestSameHostAddresses(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "127.0.0.2:0", "[::1]:0", ":0", "0.0.0.0:0"} {
		var ips [2][4]netip.Addr
		for i := range ips {
			w, payments, _ := host(t)
			ln, err := payments.Listen(t.Context(), "tcp", at)
			if err != nil {
				t.Skip(at, err)
			}
			if i == 1 {
				w.network = new(tcpAlone)
			}
			c, s := w.pipe(w.join("orders"), ln)
			announced := w.names.Lookup("payments").Endpoints[0].Addr
			if got, want := sockets(t, announced), 2-i; got != want {
				t.Errorf("%s, at %v: %d sockets, want %d", at, announced, got, want)
			}
			p, _ := mesh.PeerFromConn(s)
			for j, a := range []net.Addr{net.TCPAddrFromAddrPort(p.Addr), s.LocalAddr(), c.LocalAddr(), c.RemoteAddr()} {
				ap := a.(*net.TCPAddr).AddrPort()
				ips[i][j] = ap.Addr().Unmap()
				if ap.Port() == 0 {
					t.Errorf("%s: address %d has no port", at, j)
				}
			}
			if got := addrOfConn(c.RemoteAddr()); got != announced {
				t.Errorf("%s: dialed %v, want %v", at, got, announced)
			}
		}
		if ips[0] != ips[1] {
			t.Errorf("%s: %v, by TCP %v", at, ips[0], ips[1])
		}
	}
}

func addrOfConn(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// Programs tell connections apart by their RemoteAddr.
func TestSameHostAddressesAreDistinct(t *testing.T) {
	w, payments, orders := host(t)
	ln := w.listen(payments)
	seen := make(map[string]bool)
	for range 10 {
		_, s := w.pipe(orders, ln)
		seen[s.RemoteAddr().String()] = true
	}
	if len(seen) != 10 {
		t.Errorf("10 connections come from %d addresses", len(seen))
	}
}

func TestSameHostLeavesNoSocket(t *testing.T) {
	for name, end := range map[string]func(*mesh.Mesh, net.Listener) error{
		"listener": func(_ *mesh.Mesh, ln net.Listener) error { return ln.Close() },
		"mesh":     func(m *mesh.Mesh, _ net.Listener) error { return m.Close() },
		"shutdown": func(m *mesh.Mesh, _ net.Listener) error { return m.Shutdown(context.Background()) },
	} {
		w, payments, orders := host(t)
		ln := w.listen(payments)
		c, s := w.pipe(orders, ln)
		if n := sockets(t, addrOf(ln)); n != 2 {
			t.Errorf("%s: %d sockets, want 2", name, n)
		}
		c.Close()
		s.Close()
		if err := orders.Close(); err != nil {
			t.Error(err)
		}
		if err := end(payments, ln); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name != "listener" { // which keeps the connections
			if n := sockets(t, addrOf(ln)); n != 0 {
				t.Errorf("%s: %d sockets are left", name, n)
			}
		}
		listenUnix(t, socketOf(addrOf(ln))).Close() // the name is free
	}
}

// Whoever has taken the name of a socket, of our user or of another, keeps nobody from being reached, nor gets a connection of ours.
func TestSameHostSquatters(t *testing.T) {
	for name, squat := range map[string]struct {
		another bool
		do      func(net.Conn)
		reached bool // by the first dial
	}{
		"of our user who closes":    {do: func(c net.Conn) { c.Close() }, reached: true},
		"of our user with garbage":  {do: func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, reached: true},
		"of our user who stays mum": {do: func(net.Conn) {}},
		"of another user":           {another: true, do: func(net.Conn) {}, reached: true},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			w, payments, orders := host(t, func(c *mesh.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			probe := listenTCP(t)
			at := addrOf(probe)
			probe.Close()
			squatter := squatAs(t, squat.another, at)
			heard := make(chan int, 8)
			go func() {
				for {
					c, err := squatter.Accept()
					if err != nil {
						return
					}
					t.Cleanup(func() { c.Close() })
					squat.do(c)
					if squat.another {
						n, _ := io.Copy(io.Discard, c)
						heard <- int(n)
					}
				}
			}()
			ln, err := payments.Listen(t.Context(), "tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			w.echo(ln)
			if !strings.Contains(log.String(), "callers on this host have to use TCP") {
				t.Errorf("nothing is said of the name that was taken: %s", &log)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if !squat.reached {
				ctx, cancel = context.WithTimeout(t.Context(), time.Second) // as long as it may take until the name is dialed
			}
			defer cancel()
			c, err := orders.Dial(ctx, "tcp", "payments")
			if (err == nil) != squat.reached {
				t.Errorf("the first dial: %v", err)
			}
			if err != nil {
				if c, err = orders.Dial(t.Context(), "tcp", "payments"); err != nil {
					t.Fatal("the second dial: ", err)
				}
			}
			defer c.Close()
			if err := ping(c); err != nil {
				t.Error(err)
			}
			if squat.another {
				if n := <-heard; n != 0 {
					t.Errorf("another user was sent %d bytes", n)
				}
			}
		})
	}
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// squatAs takes the name of an address's socket.
func squatAs(t *testing.T, another bool, a netip.AddrPort) (ln net.Listener) {
	t.Helper()
	name := socketOf(a)
	if another {
		asAnotherUser(t, func() { ln = listenUnix(t, name) })
		return ln
	}
	return listenUnix(t, name)
}

// asAnotherUser runs f in a thread of another effective user.
func asAnotherUser(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	const nobody, keep = 65533, ^uintptr(0)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Not syscall.Setreuid, which is for all threads.
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, nobody, keep); e != 0 {
		t.Skip("setresuid: ", e)
	}
	defer func() {
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, 0, keep); e != 0 {
			panic(e) // the thread is of no use any more
		}
	}()
	f()
}

// A caller of another user is not talked to, nor one that says nothing waited for, and neither is in the way of others.
func TestSameHostStrangers(t *testing.T) {
	w, payments, orders := host(t)
	ln := w.listen(payments)
	w.echo(ln)
	name := socketOf(addrOf(ln))
	dial := func() (c net.Conn) {
		c, err := new(net.Dialer).DialContext(t.Context(), "unix", name)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 1100 { // more than are let to wait at once
		defer dial().Close()
	}
	c, err := orders.Dial(t.Context(), "tcp", "payments")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ping(c); err != nil {
		t.Fatal(err)
	}
	if got := addrOfConn(c.LocalAddr()).Port(); got >= 1<<15 {
		t.Errorf("a caller at port %d has come by TCP", got)
	}
	asAnotherUser(t, func() { c = dial() })
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		t.Errorf("another user read %d bytes, %v, want io.EOF", n, err)
	}
}

// The name of another host's address is nobody's.
func TestSameHostIsThisHost(t *testing.T) {
	w, _, orders := host(t)
	broadcast := netip.MustParseAddrPort("255.255.255.255:7") // which TCP does not send to
	squatter := listenUnix(t, socketOf(broadcast))
	accepted := make(chan struct{}, 1)
	go func() {
		if c, err := squatter.Accept(); err == nil {
			c.Close()
			accepted <- struct{}{}
		}
		close(accepted)
	}()
	w.names.Set(endpoint(broadcast))
	if c, err := orders.Dial(t.Context(), "tcp", "payments"); err == nil {
		c.Close()
		t.Error("an address of no host was reached")
	}
	squatter.Close()
	if _, dialed := <-accepted; dialed {
		t.Error("a socket was dialed for the address of another host")
	}
}
