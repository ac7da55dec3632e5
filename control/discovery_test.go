package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/intramesh/mesh"
	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/discoverytest"
	"github.com/intramesh/mesh/discovery/dns"
	"github.com/intramesh/mesh/discovery/files"
	"github.com/intramesh/mesh/discovery/static"
	"github.com/intramesh/mesh/internal/atomicfile"
	miekg "github.com/miekg/dns"
)

// zone serves DNS on loopback: "payments.example." is at addr.
func zone(t *testing.T, addr *netip.AddrPort) netip.AddrPort {
	t.Helper()
	up := make(chan netip.AddrPort)
	srv := &miekg.Server{Addr: "127.0.0.1:0", Net: "udp", Handler: miekg.HandlerFunc(func(w miekg.ResponseWriter, q *miekg.Msg) {
		m := new(miekg.Msg).SetReply(q)
		if q.Question[0].Qtype == miekg.TypeA && q.Question[0].Name == "payments.example." {
			m.Answer = append(m.Answer, &miekg.A{
				Hdr: miekg.RR_Header{Name: q.Question[0].Name, Rrtype: miekg.TypeA, Class: miekg.ClassINET, Ttl: 60},
				A:   addr.Addr().AsSlice(),
			})
		}
		_ = w.WriteMsg(m)
	})}
	srv.NotifyStartedFunc = func() { up <- netip.MustParseAddrPort(srv.PacketConn.LocalAddr().String()) }
	done := make(chan error, 1)
	go func() { done <- srv.ListenAndServe() }()
	at := <-up
	t.Cleanup(func() {
		if err := errors.Join(srv.Shutdown(), <-done); err != nil {
			t.Error(err)
		}
	})
	return at
}

// reach waits until the rules have come and service echoes.
func reach(t *testing.T, m *mesh.Mesh, service string) {
	t.Helper()
	eventually(t, service, func(ctx context.Context) error {
		c, err := m.Dial(ctx, "tcp", service)
		if err != nil {
			return err
		}
		return pingOn(ctx, c)
	})
}

// Certificates and rules come from the control plane, places from elsewhere: DNS instead of the gossip, a file beside it.
func TestDiscoveryElsewhere(t *testing.T) {
	p := serve(t, newDir(t))
	p.apply(t, ordersMayCallPayments+"---"+strings.ReplaceAll(ordersMayCallPayments, "payments", "ledger"))
	joinWith := func(service string, edit func(*mesh.Config)) *mesh.Mesh {
		t.Helper()
		b, err := p.admin.Token(t.Context(), service, 0)
		if err != nil {
			t.Fatal(err)
		}
		cfg := mesh.Config{Service: service, Bootstrap: b}
		edit(&cfg)
		m, err := mesh.Join(t.Context(), cfg)
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
	silent := func(c *mesh.Config) { c.Discovery = static.New() }
	payments := echo(t, joinWith("payments", silent))
	ledger := echo(t, joinWith("ledger", silent))
	gossiped := p.join(t, "payments", "")
	echo(t, gossiped)

	names, err := dns.New(dns.Config{
		Servers:  []netip.AddrPort{zone(t, &payments)},
		Services: []dns.Service{{Service: "payments", Name: "payments.example", TCPPort: payments.Port()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer names.Close()
	<-names.Synced()
	reach(t, joinWith("orders", func(c *mesh.Config) { c.Discovery = names }), "payments")

	path := filepath.Join(t.TempDir(), "endpoints.json")
	raw, err := json.Marshal(map[string]any{"endpoints": []any{map[string]any{"service": "ledger", "address": ledger}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := files.Open(files.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	orders := joinWith("orders", func(c *mesh.Config) { c.AlsoDiscovery = discovery.Behind(list) })
	discoverytest.Await(t, orders.Discovery(), "payments", func(eps []discovery.Endpoint) bool { return len(eps) == 1 })
	reach(t, orders, "payments") // by gossip
	reach(t, orders, "ledger")   // by the file
}
