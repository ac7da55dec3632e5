package dns_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/dns"
	"github.com/intramesh/mesh/discovery/internal/realtest"
)

// A coreDNS is the real server, for the zone example.test.
type coreDNS struct {
	*realtest.Process
	path, dir, addr string
	serial          int
}

func startCoreDNS(t *testing.T, records ...string) *coreDNS {
	t.Helper()
	c := &coreDNS{path: realtest.Binary(t, "MESH_TEST_COREDNS"), dir: t.TempDir(), addr: realtest.Address(t)}
	c.write(t, records...)
	c.configure(t, zoneFile)
	c.start(t)
	return c
}

const zoneFile = "file zone example.test {\n reload 200ms\n }"

func (c *coreDNS) start(t *testing.T) {
	t.Helper()
	c.Process = realtest.Start(t, c.path, "-conf", filepath.Join(c.dir, "Corefile"), "-quiet")
}

// configure says how to answer. A running server follows within seconds, without being away.
func (c *coreDNS) configure(t *testing.T, plugin string) {
	t.Helper()
	host, port, _ := strings.Cut(c.addr, ":")
	conf := fmt.Sprintf("example.test:%s {\n bind %s\n root %s\n %s\n errors\n reload 2s 1s\n}\n", port, host, c.dir, plugin)
	if err := os.WriteFile(filepath.Join(c.dir, "Corefile"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
}

// write replaces the zone, of which a running server takes notice.
func (c *coreDNS) write(t *testing.T, records ...string) {
	t.Helper()
	c.serial++
	zone := fmt.Sprintf("$ORIGIN example.test.\n$TTL 1\n@ 1 IN SOA ns hostmaster %d 7200 3600 1209600 1\n@ IN NS ns\nns IN A 192.0.2.53\n%s\n",
		c.serial, strings.Join(records, "\n"))
	if err := os.WriteFile(filepath.Join(c.dir, "zone"), []byte(zone), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *coreDNS) follow(t *testing.T, svc dns.Service, edit ...func(*dns.Config)) *dns.Source {
	t.Helper()
	svc.Service = "payments"
	cfg := dns.Config{
		Services: []dns.Service{svc}, Servers: []netip.AddrPort{netip.MustParseAddrPort(c.addr)},
		MinTTL: 50 * time.Millisecond, MaxTTL: 5 * time.Second, Keep: time.Millisecond, Timeout: time.Second,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, f := range edit {
		f(&cfg)
	}
	src, err := dns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

func TestCoreDNSAnswers(t *testing.T) {
	var many, manySRV []string
	var manyAddrs []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("many IN A 192.0.2.%d", i))
		manySRV = append(manySRV, fmt.Sprintf("_many._tcp IN SRV 1 5 %d h%d\nh%d IN A 192.0.2.%d", 1000+i, i, i, i))
		manyAddrs = append(manyAddrs, fmt.Sprintf("192.0.2.%d:1", i))
	}
	zone := append([]string{
		"_p._tcp 0 IN SRV 10 7 8443 a", "_p._tcp 0 IN SRV 20 1 8444 b", "_p._tcp 0 IN SRV 10 3 8445 v6",
		"a IN A 192.0.2.1", "a IN AAAA 2001:db8::1", "b IN A 192.0.2.2", "v6 IN AAAA 2001:db8::6",
		"zero 0 IN A 192.0.2.9", "alias IN CNAME Both", "both IN A 192.0.2.3", "both IN AAAA 2001:db8::3",
		"long IN CNAME alias", "loop IN CNAME loop2", "loop2 IN CNAME loop", "dangling IN CNAME nothing",
		"_gone._tcp IN SRV 0 0 0 .", "_nohost._tcp IN SRV 1 1 1 nothing", "_half._tcp IN SRV 1 1 1 nothing", "_half._tcp IN SRV 1 1 2 a",
		"*.wild IN A 192.0.2.7", "text IN TXT hello", "_srvalias._tcp IN CNAME _p._tcp",
	}, append(many, manySRV...)...)
	c := startCoreDNS(t, zone...)
	for _, tt := range []struct {
		svc  dns.Service
		v6   bool
		want string
	}{
		{svc: dns.Service{Name: "_p._tcp.example.test"}, want: "192.0.2.1:8443*7 192.0.2.2:8444*1? [2001:db8::6]:8445*3"},
		{svc: dns.Service{Name: "_P._TCP.example.TEST."}, v6: true, want: "192.0.2.2:8444*1? [2001:db8::1]:8443*7 [2001:db8::6]:8445*3"},
		{svc: dns.Service{Name: "_srvalias._tcp.example.test"}, want: "192.0.2.1:8443*7 192.0.2.2:8444*1? [2001:db8::6]:8445*3"},
		{svc: dns.Service{Name: "_gone._tcp.example.test"}},
		{svc: dns.Service{Name: "_nohost._tcp.example.test"}},
		{svc: dns.Service{Name: "_half._tcp.example.test"}, want: "192.0.2.1:2*1"},
		{svc: dns.Service{Name: "zero.example.test", TCPPort: 1}, want: "192.0.2.9:1"},
		{svc: dns.Service{Name: "alias.example.test", TCPPort: 1}, want: "192.0.2.3:1"},
		{svc: dns.Service{Name: "long.example.test", TCPPort: 1}, v6: true, want: "[2001:db8::3]:1"},
		{svc: dns.Service{Name: "v6.example.test", TCPPort: 1}, want: "[2001:db8::6]:1"},
		{svc: dns.Service{Name: "x.wild.example.test", TCPPort: 1}, want: "192.0.2.7:1"},
		{svc: dns.Service{Name: "many.example.test", TCPPort: 1}, want: strings.Join(manyAddrs, " ")},
		{svc: dns.Service{Name: "text.example.test", TCPPort: 1}},
		{svc: dns.Service{Name: "nobody.example.test", TCPPort: 1}},
		{svc: dns.Service{Name: "loop.example.test", TCPPort: 1}},
		{svc: dns.Service{Name: "dangling.example.test", TCPPort: 1}},
	} {
		t.Run(tt.svc.Name, func(t *testing.T) {
			src := c.follow(t, tt.svc, func(cfg *dns.Config) { cfg.PreferIPv6 = tt.v6 })
			select {
			case <-src.Synced():
			case <-time.After(10 * time.Second):
				t.Fatal("never synced")
			}
			if got := addrs(src.Lookup("payments").Endpoints); len(tt.want) < 1000 && got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			} else if strings.Count(got, ":") != strings.Count(tt.want, ":") {
				t.Errorf("%d endpoints, want %d", strings.Count(got, ":"), strings.Count(tt.want, ":"))
			}
		})
	}
	src := c.follow(t, dns.Service{Name: "_many._tcp.example.test"})
	discoverytest.AwaitCount(t, src, "payments", 200)
}

// The zone changes, and the server fails in each of its ways.
func TestCoreDNSChanges(t *testing.T) {
	c := startCoreDNS(t, "p IN A 192.0.2.1")
	src := c.follow(t, dns.Service{Name: "p.example.test", TCPPort: 1})
	await(t, src, "192.0.2.1:1")
	c.write(t, "p IN A 192.0.2.1", "p IN A 192.0.2.2")
	await(t, src, "192.0.2.1:1 192.0.2.2:1")
	c.write(t, "p IN A 192.0.2.2")
	await(t, src, "192.0.2.2:1")
	c.Kill()
	await(t, src, "192.0.2.2:1?")
	c.start(t)
	await(t, src, "192.0.2.2:1")
	for _, rcode := range []string{"SERVFAIL", "REFUSED"} {
		c.configure(t, "template ANY ANY {\n rcode "+rcode+"\n }")
		await(t, src, "192.0.2.2:1?")
		c.configure(t, zoneFile)
		await(t, src, "192.0.2.2:1")
	}
	c.write(t, "p IN TXT none") // NODATA
	await(t, src, "")
	c.write(t, "p IN A 192.0.2.4")
	await(t, src, "192.0.2.4:1")
	c.write(t) // NXDOMAIN
	await(t, src, "")
}
