package meshdns_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/intramesh/mesh/control/meshdns"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T, cfg meshdns.Config) *meshdns.Server {
	t.Helper()
	cfg.Addr = netip.MustParseAddrPort("127.0.0.1:0")
	s, err := meshdns.Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

func ask(t *testing.T, s *meshdns.Server, network, name string, typ uint16, edit ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, typ)
	for _, f := range edit {
		f(q)
	}
	c := dns.Client{Net: network, Timeout: 5 * time.Second, UDPSize: 4096}
	m, _, err := c.ExchangeContext(t.Context(), q, s.Addr().String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

func show(m *dns.Msg) string {
	var all []string
	for _, rr := range m.Answer {
		all = append(all, strings.Join(strings.Fields(rr.String())[3:], " "))
	}
	slices.Sort(all)
	return dns.RcodeToString[m.Rcode] + " " + strings.Join(all, ", ")
}

func ep(service, port, addr string, more ...func(*discovery.Endpoint)) discovery.Endpoint {
	e := discovery.Endpoint{Service: service, Port: port, Addr: netip.MustParseAddrPort(addr)}
	for _, f := range more {
		f(&e)
	}
	return e
}

func suspect(e *discovery.Endpoint)  { e.Suspect = true }
func draining(e *discovery.Endpoint) { e.State = discovery.Draining }

func TestAnswers(t *testing.T) {
	s := listen(t, meshdns.Config{Discovery: static.New(
		ep("payments", "", "192.0.2.1:8443", func(e *discovery.Endpoint) { e.Weight = 7 }),
		ep("payments", "", "192.0.2.1:8444"),
		ep("payments", "", "[2001:db8::1]:8443"),
		ep("payments", "", "192.0.2.3:1", draining), ep("payments", "", "192.0.2.4:1", suspect),
		ep("payments", "admin", "192.0.2.5:9"),
		ep("billing/invoices", "", "192.0.2.6:1"), ep("queue", "admin", "192.0.2.10:1"),
		ep("both", "", "192.0.2.9:1", func(e *discovery.Endpoint) { e.Also = discovery.AddrsOf(netip.MustParseAddr("2001:db8::9")) }),
		ep("old", "", "192.0.2.7:1", suspect), ep("leaving", "", "192.0.2.8:1", draining),
	)})
	v6 := "20010db8000000000000000000000001.addr.mesh."
	for _, tt := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"payments.mesh.", dns.TypeA, "NOERROR A 192.0.2.1"},
		{"PayMents.MESH.", dns.TypeAAAA, "NOERROR AAAA 2001:db8::1"},
		{"payments.mesh.", dns.TypeSRV, "NOERROR SRV 1 1 8443 " + v6 + ", SRV 1 1 8444 c0000201.addr.mesh., SRV 1 7 8443 c0000201.addr.mesh."},
		{"_admin._tcp.payments.mesh.", dns.TypeSRV, "NOERROR SRV 1 1 9 c0000205.addr.mesh."},
		{"_none._tcp.payments.mesh.", dns.TypeSRV, "NXDOMAIN "},
		// Above a name that exists there is none that does not (RFC 8020).
		{"_tcp.payments.mesh.", dns.TypeA, "NOERROR "},
		{"addr.mesh.", dns.TypeA, "NOERROR "},
		{"queue.mesh.", dns.TypeSRV, "NOERROR "},
		{"_tcp.queue.mesh.", dns.TypeSRV, "NOERROR "},
		{"_admin._tcp.queue.mesh.", dns.TypeSRV, "NOERROR SRV 1 1 1 c000020a.addr.mesh."},
		{"_tcp.both.mesh.", dns.TypeSRV, "NXDOMAIN "},
		{"_tcp.mesh.", dns.TypeSRV, "NXDOMAIN "},
		{"payments.mesh.", dns.TypeTXT, "NOERROR "},
		{"billing.invoices.mesh.", dns.TypeA, "NOERROR A 192.0.2.6"},
		{"both.mesh.", dns.TypeA, "NOERROR A 192.0.2.9"},
		{"both.mesh.", dns.TypeAAAA, "NOERROR AAAA 2001:db8::9"},
		{"both.mesh.", dns.TypeSRV, "NOERROR SRV 1 1 1 c0000209.addr.mesh., SRV 2 1 1 20010db8000000000000000000000009.addr.mesh."},
		{"billing.mesh.", dns.TypeA, "NXDOMAIN "},
		{"old.mesh.", dns.TypeA, "NOERROR A 192.0.2.7"},
		{"leaving.mesh.", dns.TypeA, "NOERROR "},
		{"nobody.mesh.", dns.TypeA, "NXDOMAIN "},
		{"c0000201.addr.mesh.", dns.TypeA, "NOERROR A 192.0.2.1"},
		{"c0000201.addr.mesh.", dns.TypeAAAA, "NOERROR "},
		{v6, dns.TypeAAAA, "NOERROR AAAA 2001:db8::1"},
		{"c00002.addr.mesh.", dns.TypeA, "NXDOMAIN "},
		{"nonsense.addr.mesh.", dns.TypeA, "NXDOMAIN "},
		{"mesh.", dns.TypeSOA, "NOERROR SOA 7f000001.addr.mesh. hostmaster.mesh. 1 3600 600 86400 5"},
		{"mesh.", dns.TypeNS, "NOERROR NS 7f000001.addr.mesh."},
		{"mesh.", dns.TypeA, "NOERROR "},
		{"example.com.", dns.TypeA, "REFUSED "},
		{"notmesh.", dns.TypeA, "REFUSED "},
		{"payments.mesh.", dns.TypeANY, "REFUSED "},
		{"mesh.", dns.TypeAXFR, "REFUSED "},
	} {
		for _, network := range []string{"udp", "tcp"} {
			m := ask(t, s, network, tt.name, tt.typ)
			if got := show(m); got != tt.want {
				t.Errorf("%s %s over %s: got %s, want %s", tt.name, dns.TypeToString[tt.typ], network, got, tt.want)
			}
			none := len(m.Answer) == 0 && m.Rcode != dns.RcodeRefused
			if soa := len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA; soa != none || m.RecursionAvailable {
				t.Errorf("%s: %s", tt.name, m)
			}
		}
	}
	if m := ask(t, s, "udp", "payments.mesh.", dns.TypeA, func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }); m.Rcode != dns.RcodeRefused {
		t.Errorf("class CH: %s", show(m))
	}
	if m := ask(t, s, "udp", "mesh.", dns.TypeNS); len(m.Extra) != 1 || m.Extra[0].(*dns.A).A.String() != "127.0.0.1" {
		t.Errorf("NS without its address: %s", m)
	}
	if m := ask(t, s, "udp", "payments.mesh.", dns.TypeA, func(q *dns.Msg) { q.Opcode = dns.OpcodeNotify }); show(m) != "NOTIMP " {
		t.Errorf("NOTIFY: %s", m)
	}
	if m := ask(t, s, "udp", "payments.mesh.", dns.TypeSRV, func(q *dns.Msg) { q.SetEdns0(1232, false) }); m.IsEdns0() == nil || len(m.Extra) != 3 {
		t.Errorf("with EDNS: %s", m)
	}
}

// What knows only Go's standard library finds all of it, and follows changes.
func TestGoResolver(t *testing.T) {
	dir := static.New()
	var eps []discovery.Endpoint
	for i := range 100 {
		eps = append(eps, ep("payments", "", fmt.Sprintf("192.0.2.%d:8443", i)))
	}
	dir.Set(eps...)
	s := listen(t, meshdns.Config{Discovery: dir, Zone: "svc.example.net"})
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Addr().String())
	}}
	if ips, err := r.LookupHost(t.Context(), "payments.svc.example.net."); err != nil || len(ips) != 100 {
		t.Errorf("%d addresses, %v", len(ips), err)
	}
	if _, srv, err := r.LookupSRV(t.Context(), "", "", "payments.svc.example.net."); err != nil || len(srv) != 100 {
		t.Errorf("%d records, %v", len(srv), err)
	}
	dir.Set(eps[0])
	if ips, err := r.LookupHost(t.Context(), "payments.svc.example.net."); err != nil || len(ips) != 1 {
		t.Errorf("%v, %v", ips, err)
	}
}

// An answer over UDP is bounded, and so are answers to one network of clients.
func TestAmplification(t *testing.T) {
	var eps []discovery.Endpoint
	for i := range 1000 {
		eps = append(eps, ep("payments", "", fmt.Sprintf("192.0.%d.%d:8443", i/250, i%250)))
	}
	s := listen(t, meshdns.Config{Discovery: static.New(eps...), Rate: 10})
	for _, size := range []uint16{0, 512, 1232, 65535} {
		m := ask(t, s, "udp", "payments.mesh.", dns.TypeSRV, func(q *dns.Msg) {
			if size > 0 {
				q.SetEdns0(size, false)
			}
		})
		m.Compress = true // as it came
		if limit := max(512, min(int(size), 1232)); m.Len() > limit || !m.Truncated {
			t.Errorf("%d bytes for a client that takes %d, truncated %t", m.Len(), size, m.Truncated)
		}
	}
	if m := ask(t, s, "tcp", "payments.mesh.", dns.TypeSRV); len(m.Answer) != 128 || m.Truncated {
		t.Errorf("%d answers over TCP", len(m.Answer))
	}
	full := 0
	for range 100 {
		if m := ask(t, s, "udp", "payments.mesh.", dns.TypeA); len(m.Answer) > 0 {
			full++
		} else if !m.Truncated || m.Len() > 40 {
			t.Fatalf("%d bytes: %s", m.Len(), m)
		}
	}
	if full > 60 { // 100 questions take some seconds at the very worst
		t.Errorf("%d answers", full)
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]meshdns.Config{
		"no discovery": {Addr: netip.MustParseAddrPort("127.0.0.1:0")},
		"no zone":      {Addr: netip.MustParseAddrPort("127.0.0.1:0"), Zone: ".", Discovery: static.New()},
		"no address":   {Addr: netip.MustParseAddrPort("192.0.2.1:53"), Discovery: static.New()},
	} {
		if s, err := meshdns.Listen(t.Context(), cfg); err == nil {
			t.Errorf("%s: no error", name)
			s.Close()
		}
	}
}

// Whatever comes in, the server answers the next one.
func FuzzServer(f *testing.F) {
	s, err := meshdns.Listen(f.Context(), meshdns.Config{Addr: netip.MustParseAddrPort("127.0.0.1:0"), Discovery: static.New(), Rate: 1 << 30})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	packed, err := new(dns.Msg).SetQuestion("payments.mesh.", dns.TypeSRV).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := new(net.Dialer).DialContext(t.Context(), "udp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write(data)
		q := new(dns.Msg).SetQuestion("mesh.", dns.TypeSOA)
		if m, _, err := new(dns.Client).ExchangeContext(t.Context(), q, s.Addr().String()); err != nil || m.Rcode != dns.RcodeSuccess {
			t.Fatalf("%v, %v", m, err)
		}
	})
}
