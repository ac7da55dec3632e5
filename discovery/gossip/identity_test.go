package gossip_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intramesh/mesh/discovery"
	"github.com/intramesh/mesh/discovery/gossip"
	"github.com/intramesh/mesh/discovery/gossip/internal/attack"
	"github.com/intramesh/mesh/identity"
	"github.com/intramesh/mesh/internal/testca"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// A domain is a trust domain whose members gossip in a fabric.
type domain struct {
	*fabric
	ca *testca.CA
}

func (f *fabric) domain(t testing.TB, name string) *domain {
	t.Helper()
	ca, err := testca.New(spiffeid.RequireTrustDomainFromString(name))
	if err != nil {
		t.Fatal(err)
	}
	return &domain{f, ca}
}

func (d *domain) credential(t testing.TB, service string, edit ...func(*x509.Certificate)) *identity.Credential {
	t.Helper()
	svid, err := d.ca.SVID(service, edit...)
	if err != nil {
		t.Fatal(err)
	}
	return identity.NewCredential(identity.Static(svid, d.ca.Bundle()))
}

// member starts a member that has the service's certificate.
func (d *domain) member(t *testing.T, service, ip string, seeds ...string) *node {
	t.Helper()
	return d.startWith(t, ip, gossip.Config{Seeds: seeds, Identity: d.credential(t, service)})
}

func TestSigned(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		a, b, c := d.member(t, "orders", ipA), d.member(t, "payments", ipB, seedA), d.member(t, "payments", ipC, seedA)
		b.serve(t, "payments")
		c.serve(t, "payments")
		a.within(t, 2*time.Second, "payments", ipB, ipC)
		b.within(t, 2*time.Second, "payments", ipB, ipC)
		for _, m := range a.Members() {
			if !m.Verified || len(m.Endpoints) == 0 != m.Self {
				t.Errorf("got %+v", m)
			}
		}
		for _, m := range c.Members() {
			if m.Verified != m.Self {
				t.Errorf("nobody asked for it, yet verified: %+v", m)
			}
		}
		if got := (gossip.Refused{}); a.Refused() != got || b.Refused() != got {
			t.Errorf("refused %+v, %+v", a.Refused(), b.Refused())
		}
		if err := b.Register(t.Context(), endpoint("orders")); err == nil {
			t.Error("announced another's service")
		}
		// Changes are believed at once: the certificate is known.
		ep := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort(ipB + ":443"), State: discovery.Draining}
		if err := b.Register(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
		a.within(t, time.Second, "payments", ipB, ipC)
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.within(t, 0, "payments", ipC)
	})
}

// liar claims to be whoever it is asked about.
type liar struct {
	*identity.Credential
	claims string
}

func (l liar) VerifyMember([]*x509.Certificate) (string, error) { return l.claims, nil }

func TestClaimsAnothersService(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		a, b := d.member(t, "orders", ipA), d.member(t, "payments", ipB, seedA)
		b.serve(t, "payments")
		a.within(t, 2*time.Second, "payments", ipB)
		f.hostile = true
		evil := d.startWith(t, "10.6.6.6", gossip.Config{Seeds: []string{seedA}, Identity: liar{d.credential(t, "evil"), "payments"}})
		evil.serve(t, "payments")
		for start := time.Now(); a.Refused().Lies == 0; <-time.After(10 * time.Millisecond) {
			if time.Since(start) > 2*time.Second {
				t.Fatalf("no lie was noticed: %v", a.sees("payments"))
			}
		}
		a.stays(t, time.Minute, ipB)
		// Nor does it get in by a certificate that is not its own.
		other := d.startWith(t, "10.6.6.7", gossip.Config{Seeds: []string{seedA}, Identity: liar{d.credential(t, "evil"), "payments"}})
		other.serve(t, "payments")
		a.within(t, 2*time.Second, "payments", ipB)
	})
}

// Who has the pool's key, but not b's, can't change what b announces for those who know b.
func TestForgedRecords(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		a, b := d.member(t, "orders", ipA), d.member(t, "payments", ipB, seedA)
		b.serve(t, "payments")
		old := b.Announced()
		a.within(t, 2*time.Second, "payments", ipB)
		ep := discovery.Endpoint{Service: "payments", Addr: netip.MustParseAddrPort(ipB + ":444")}
		if err := b.Register(t.Context(), ep); err != nil {
			t.Fatal(err)
		}
		is444 := func() bool {
			eps := a.Lookup("payments").Endpoints
			return len(eps) == 1 && eps[0].Addr.Port() == 444 && !eps[0].Suspect
		}
		for start := time.Now(); !is444(); <-time.After(10 * time.Millisecond) {
			if time.Since(start) > time.Second {
				t.Fatal("b's change was not seen")
			}
		}
		mallory := f.attacker(t, key(1))
		rewrite := func(meta []byte, incarnation int) {
			mallory.packet(t, ipA, attack.Message(attack.Alive, "Incarnation", incarnation, "Node", b.Instance(), "Addr", attack.Victim(),
				"Port", 7946, "Meta", meta, "Vsn", attack.Versions()))
		}
		evil := d.member(t, "payments", "10.6.6.8", seedA) // it is allowed to, for itself
		evil.serve(t, "payments")
		a.within(t, 2*time.Second, "payments", ipB, "10.6.6.8")
		evil.host.kill()
		tampered := b.Announced()
		tampered[len(tampered)-1] ^= 1
		tampered[4]++ // a later generation
		for i, meta := range [][]byte{old, nil, tampered, evil.Announced()} {
			rewrite(meta, 50+10*i)
			for range 300 {
				if !is444() && len(a.Lookup("payments").Endpoints) == 1 {
					t.Fatalf("record %d: a sees %+v", i, a.Lookup("payments").Endpoints)
				}
				<-time.After(10 * time.Millisecond)
			}
		}
		if r := a.Refused(); r.Replayed == 0 || r.Forged == 0 || r.Lies != 0 {
			t.Errorf("refused %+v", r)
		}
		// Nor does an old record bring it back that has left.
		last := b.Announced()
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.host.kill()
		<-time.After(2 * time.Minute) // memberlist has forgotten it
		for i := range 20 {
			rewrite(last, 500+i)
			<-time.After(time.Second)
			for _, ep := range a.Lookup("payments").Endpoints {
				if ep.Instance == b.Instance() {
					t.Fatalf("a zombie: %+v", ep)
				}
			}
		}
	})
}

func TestOnlyTheTrustDomainGetsIn(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d, foreign := f.domain(t, "example.test"), f.domain(t, "other.test")
		a := d.member(t, "payments", ipA)
		a.serve(t, "payments")
		expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }
		for i, id := range []gossip.Identity{
			nil, foreign.credential(t, "payments"),
			liar{d.credential(t, "payments", expired), "payments"},
			liar{foreign.credential(t, "payments"), "payments"},
		} {
			n := f.startWith(t, "10.6.6."+string(rune('1'+i)), gossip.Config{Seeds: []string{seedA}, Identity: id})
			select {
			case <-n.Joined():
				t.Errorf("%d has joined", i)
			case <-time.After(30 * time.Second):
			}
			if got := n.sees("payments"); len(got) > 0 {
				t.Errorf("%d sees %v", i, got)
			}
		}
		d.member(t, "orders", ipB, seedA).within(t, 2*time.Second, "payments", ipA)
	})
}

// changing is a source whose certificate is replaced.
type changing struct {
	*x509bundle.Bundle
	svid atomic.Pointer[x509svid.SVID]
}

func (c *changing) GetX509SVID() (*x509svid.SVID, error) { return c.svid.Load(), nil }

func TestCertificateIsRenewed(t *testing.T) {
	inFabric(t, func(t *testing.T, f *fabric) {
		d := f.domain(t, "example.test")
		short := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(4 * time.Minute) }
		src := &changing{Bundle: d.ca.Bundle()}
		renew := func() {
			svid, err := d.ca.SVID("payments", short)
			if err != nil {
				t.Fatal(err)
			}
			src.svid.Store(svid)
		}
		renew()
		a := d.member(t, "orders", ipA)
		b := d.startWith(t, ipB, gossip.Config{Seeds: []string{seedA}, Identity: identity.NewCredential(src)})
		b.serve(t, "payments")
		a.within(t, 2*time.Second, "payments", ipB)
		for range 5 {
			<-time.After(2 * time.Minute)
			renew()
			a.stays(t, time.Minute, ipB)
		}
		// Without a renewal it is believed no more.
		a.within(t, 5*time.Minute, "payments", ipB+"?")
	})
}

// Someone who is in the way, or has only the key, learns nothing from a stream.
func TestStreamsAreTLS(t *testing.T) {
	d := newFabric().domain(t, "example.test")
	a := join(t, gossip.Config{BindAddr: loopback, Keys: [][]byte{key(1)}, Identity: d.credential(t, "payments")})
	for name, cfg := range map[string]*tls.Config{
		"no certificate":      {InsecureSkipVerify: true, NextProtos: []string{"mesh-gossip/1"}},
		"for something else":  {InsecureSkipVerify: true, NextProtos: []string{"mesh-peer/1"}},
		"old TLS":             {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
		"of another's domain": {InsecureSkipVerify: true, NextProtos: []string{"mesh-gossip/1"}, GetClientCertificate: stranger(t)},
	} {
		conn, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", a.Addr().String())
		if err != nil {
			continue
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: it answers", name)
		}
		_ = conn.Close()
	}
}

func stranger(t *testing.T) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c := newFabric().domain(t, "other.test").credential(t, "payments")
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.Certificate() }
}
