package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/dns"
	"github.com/intramesh/mesh/discovery/internal/dnstest"
	"github.com/intramesh/mesh/discovery/static"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newSource(t testing.TB, s *dnstest.Server, cfg dns.Config) *dns.Source {
	t.Helper()
	cfg.Servers = []netip.AddrPort{s.Addr}
	if cfg.MinTTL == 0 {
		cfg.MinTTL, cfg.MaxTTL = 5*time.Millisecond, 5*time.Millisecond
	}
	src, err := dns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return src
}

// srv is how the service's port is called in the zone.
func srv(service, port string) string {
	return "_p" + port + "._tcp." + strings.ReplaceAll(service, "/", ".") + ".example."
}

func TestConformance(t *testing.T) {
	services := []string{"payments", "other", "orders", "billing/invoices", "s0", "s1", "s2", "s3"}
	var cfg dns.Config
	cfg.Keep = time.Millisecond
	for _, s := range services {
		for _, port := range []string{"", "admin"} {
			cfg.Services = append(cfg.Services, dns.Service{Service: s, Port: port, Name: srv(s, port)})
		}
	}
	discoverytest.Run(t, func(t *testing.T) discoverytest.Harness {
		dir, n := static.New(), 0
		s := dnstest.Serve(t)
		zone := func() (zone []string) {
			for _, name := range services {
				for _, ep := range dir.Lookup(name).Endpoints {
					zone = append(zone, srvRecords(srv(name, ep.Port), ep.Addr, ep.Weight)...)
				}
			}
			return zone
		}
		s.Change(func() { s.Records = zone })
		return discoverytest.Harness{
			Lacks: discoverytest.Lacks{Instance: true, Zone: true, State: true},
			Join: func(t testing.TB) discoverytest.Member {
				n++
				one := dir.Member(fmt.Sprintf("instance-%d", n))
				src := newSource(t, s, cfg)
				return discoverytest.Member{
					Resolver: src, Registrar: one, Instance: one.Instance(),
					Leave: func(context.Context) error { return errors.Join(one.Close(), src.Close()) },
				}
			},
		}
	})
}

func addrs(eps []discovery.Endpoint) string {
	var all []string
	for _, ep := range eps {
		text := ep.Addr.String()
		if ep.Weight != 0 {
			text += "*" + strconv.Itoa(int(ep.Weight))
		}
		if ep.Suspect {
			text += "?"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func await(t *testing.T, r discovery.Resolver, want string) {
	t.Helper()
	discoverytest.Await(t, r, "payments", func(eps []discovery.Endpoint) bool { return addrs(eps) == want })
}

func TestAnswers(t *testing.T) {
	a := dns.Service{Service: "payments", Name: "p.example", TCPPort: 8443}
	srv := dns.Service{Service: "payments", Name: "_p._tcp.example"}
	for _, tt := range []struct {
		name    string
		service dns.Service
		zone    []string
		v6      bool
		want    string
	}{
		{"A", a, []string{"p.example. 60 IN A 192.0.2.1", "p.example. 60 IN A 192.0.2.2"}, false, "192.0.2.1:8443 192.0.2.2:8443"},
		{"AAAA alone", a, []string{"p.example. 60 IN AAAA 2001:db8::1"}, false, "[2001:db8::1]:8443"},
		{"both families", a, []string{"p.example. 60 IN AAAA 2001:db8::1", "p.example. 60 IN A 192.0.2.1"}, false, "192.0.2.1:8443"},
		{"both, IPv6 first", a, []string{"p.example. 60 IN AAAA 2001:db8::1", "p.example. 60 IN A 192.0.2.1"}, true, "[2001:db8::1]:8443"},
		{"alias", a, []string{"p.example. 60 IN CNAME q.example.", "q.example. 60 IN CNAME R.example.", "r.EXAMPLE. 60 IN A 192.0.2.1"}, false, "192.0.2.1:8443"},
		{"alias of itself", a, []string{"p.example. 60 IN CNAME p.example."}, false, ""},
		{"no such name", a, nil, false, ""},
		{"SRV", srv, []string{
			"_p._tcp.example. 60 IN SRV 1 5 8443 h.example.", "_p._tcp.example. 60 IN SRV 1 7 8444 h.example.",
			"_p._tcp.example. 60 IN SRV 2 5 8443 backup.example.",
			"h.example. 60 IN A 192.0.2.1", "backup.example. 60 IN A 192.0.2.2",
		}, false, "192.0.2.1:8443*5 192.0.2.1:8444*7 192.0.2.2:8443*5?"},
		{"SRV to nowhere", srv, []string{"_p._tcp.example. 60 IN SRV 0 0 0 ."}, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := newSource(t, dnstest.Serve(t, tt.zone...), dns.Config{Services: []dns.Service{tt.service}, PreferIPv6: tt.v6})
			<-src.Synced()
			await(t, src, tt.want)
		})
	}
}

func one() dns.Config {
	return dns.Config{Services: []dns.Service{{Service: "payments", Name: "p.example", TCPPort: 1}}}
}

// A thousand bytes and more go over TCP.
func TestTruncated(t *testing.T) {
	var zone []string
	for i := range 200 {
		zone = append(zone, fmt.Sprintf("p.example. 60 IN A 192.0.2.%d", i))
	}
	s := dnstest.Serve(t, zone...)
	src := newSource(t, s, one())
	discoverytest.AwaitCount(t, src, "payments", 200)
	if s.Count("tcp") == 0 {
		t.Error("not over TCP")
	}
}

// Who can't see the question can't answer it, and does not keep the right answer away.
func TestStrayAnswers(t *testing.T) {
	s := dnstest.Serve(t, "p.example. 60 IN A 192.0.2.1")
	before := func(w miekg.ResponseWriter, q *miekg.Msg) {
		forged := func(change func(*miekg.Msg)) {
			m := new(miekg.Msg).SetReply(q)
			rr, err := miekg.NewRR(q.Question[0].Name + " 60 IN A 203.0.113.66")
			if err != nil {
				panic(err)
			}
			m.Answer = append(m.Answer, rr)
			change(m)
			_ = w.WriteMsg(m)
		}
		_, _ = w.Write([]byte("not DNS"))
		forged(func(m *miekg.Msg) { m.Id++ })
		forged(func(m *miekg.Msg) { m.Response = false })
		forged(func(m *miekg.Msg) { m.Question[0].Name = "other.example." })
		forged(func(m *miekg.Msg) { m.Question[0].Qtype = miekg.TypeTXT })
		forged(func(m *miekg.Msg) { m.Question = nil })
	}
	s.Change(func() { s.Before = before })
	src := newSource(t, s, one())
	<-src.Synced()
	await(t, src, "192.0.2.1:1")
}

// A record of another name in the answer is not of this one.
func TestForeignRecords(t *testing.T) {
	s := dnstest.Serve(t, "p.example. 60 IN A 192.0.2.1")
	add := func(_ net.Addr, m *miekg.Msg) {
		rr, err := miekg.NewRR("other.example. 60 IN A 203.0.113.66")
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	s.Change(func() { s.Mangle = add })
	src := newSource(t, s, one())
	<-src.Synced()
	await(t, src, "192.0.2.1:1")
}

func TestServerGone(t *testing.T) {
	s := &dnstest.Server{Records: func() []string { return []string{"p.example. 60 IN A 192.0.2.1"} }}
	stop := s.Start(t, netip.MustParseAddrPort("127.0.0.1:0"))
	cfg := one()
	cfg.Timeout = 100 * time.Millisecond
	src := newSource(t, s, cfg)
	await(t, src, "192.0.2.1:1")
	stop()
	await(t, src, "192.0.2.1:1?")
	s.Set("p.example. 60 IN A 192.0.2.2", "p.example. 60 IN A 192.0.2.1")
	s.Start(t, s.Addr)
	await(t, src, "192.0.2.1:1 192.0.2.2:1")
	s.Change(func() { s.Mangle = func(_ net.Addr, m *miekg.Msg) { m.Rcode = miekg.RcodeServerFailure } })
	await(t, src, "192.0.2.1:1? 192.0.2.2:1?")
}

// The second server is asked when the first refuses.
func TestServersInOrder(t *testing.T) {
	bad, good := dnstest.Serve(t), dnstest.Serve(t, "p.example. 60 IN A 192.0.2.1")
	bad.Change(func() { bad.Mangle = func(_ net.Addr, m *miekg.Msg) { m.Rcode = miekg.RcodeRefused } })
	cfg := one()
	cfg.Servers = []netip.AddrPort{bad.Addr, good.Addr}
	src, err := dns.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	<-src.Synced()
	await(t, src, "192.0.2.1:1")
}

// A zone that is suddenly empty is doubted for a while.
func TestMostGoAtOnce(t *testing.T) {
	s := dnstest.Serve(t, "p.example. 60 IN A 192.0.2.1", "p.example. 60 IN A 192.0.2.2", "p.example. 60 IN A 192.0.2.3")
	cfg := one()
	cfg.Keep = 300 * time.Millisecond
	src := newSource(t, s, cfg)
	await(t, src, "192.0.2.1:1 192.0.2.2:1 192.0.2.3:1")
	s.Set("p.example. 60 IN A 192.0.2.1", "p.example. 60 IN A 192.0.2.2")
	await(t, src, "192.0.2.1:1 192.0.2.2:1")
	s.Set()
	await(t, src, "192.0.2.1:1? 192.0.2.2:1?")
	await(t, src, "")
}

// An answer counts as long as it says; that there is none, as long as the SOA record says.
func TestTTL(t *testing.T) {
	for name, tt := range map[string]struct {
		zone  []string
		again bool
	}{
		"an hour":                   {[]string{"p.example. 3600 IN A 192.0.2.1"}, false},
		"an hour, by a short alias": {[]string{"p.example. 1 IN CNAME q.example.", "q.example. 3600 IN A 192.0.2.1"}, true},
		"none":                      {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Serve(t, tt.zone...)
			asked := make(chan struct{}, 1000)
			s.Change(func() { s.Before = func(miekg.ResponseWriter, *miekg.Msg) { asked <- struct{}{} } })
			cfg := one()
			cfg.MinTTL, cfg.MaxTTL = time.Millisecond, time.Hour
			src := newSource(t, s, cfg)
			<-src.Synced()
			<-asked
			if tt.zone == nil {
				<-asked // for the other family
			}
			if tt.again {
				<-asked
				return
			}
			select {
			case <-asked:
				t.Error("asked again, too early")
			case <-time.After(1200 * time.Millisecond):
			}
		})
	}
}

func TestConfig(t *testing.T) {
	ok := dns.Service{Service: "payments", Name: "p.example"}
	for name, services := range map[string][]dns.Service{
		"no name":     {{Service: "payments"}},
		"long name":   {{Service: "payments", Name: strings.Repeat("a", 300)}},
		"bad service": {{Service: "Payments", Name: "p.example"}},
		"bad port":    {{Service: "payments", Port: "Admin", Name: "p.example"}},
		"twice":       {ok, ok},
	} {
		if src, err := dns.New(dns.Config{Services: services, Servers: []netip.AddrPort{{}}}); err == nil {
			t.Errorf("%s: no error", name)
			src.Close()
		} else if !strings.HasPrefix(err.Error(), "discovery: dns: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	src, err := dns.New(dns.Config{})
	if err != nil {
		t.Skip("this machine has no resolv.conf:", err)
	}
	<-src.Synced()
	src.Close()
}

func TestResolvConf(t *testing.T) {
	text := "# c\nnameserver 192.0.2.1\nnameserver\nsearch x\nnameserver nonsense\nnameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver 192.0.2.4\n"
	var got []string
	for _, a := range dns.ParseServers(strings.NewReader(text)) {
		got = append(got, a.String())
	}
	if want := []string{"192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%eth0]:53"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// srvRecords are the SRV record of an endpoint and its host's.
func srvRecords(name string, addr netip.AddrPort, weight uint16) []string {
	host := strings.ReplaceAll("h-"+addr.Addr().String(), ".", "-") + ".example."
	return []string{
		name + " 1 IN SRV 0 " + strconv.Itoa(int(weight)) + " " + strconv.Itoa(int(addr.Port())) + " " + host,
		host + " 1 IN A " + addr.Addr().String(),
	}
}
